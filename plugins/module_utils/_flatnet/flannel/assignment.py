# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lease a host should hold, given the config and all leases.

Pure: leases/acquire.py reads them, asks here, and writes the answer, on the condition that nothing
it was based on has changed.

A host that holds a lease is **established**: whatever else is in etcd, it keeps its subnet, since
its containers have addresses of it. Other keys that overlap the subnet, garbage or leases, only
keep *new* leases from being made there. Leases of others that record the host's identity or address
are reported and left alone. The subnet changes only if ``Wish.move`` asks for that. Of several
leases that record one host, the established one is the one whose subnet the host uses, or else the
oldest one: whoever adds another one later does not move the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import FlatnetError, option
from . import allocation
from .config import NetworkConfig
from .host import Host, is_clone, rank_of
from .lease import Lease


class DuplicatePublicIP(FlatnetError):
    """Another host holds a lease with this host's public IP."""


class DuplicateHostID(FlatnetError):
    """Another host holds a lease with this host's identity: a cloned image."""


class LeaseWouldMove(FlatnetError):
    """The host would have to move to another subnet, and nobody has asked for a move."""


class DualStackUnsupported(FlatnetError):
    """The network is dual stack, and this version provisions IPv4 only."""


class Wish(NamedTuple):
    """What a host may ask for beyond having a lease.

    ``subnet``: this subnet and no other. ``prefer`` is the subnet that the host uses, or used last;
    it gets that if it is free. ``avoid`` are prefixes that the host uses for something else.
    ``takeover``: take the lease of another host that has this address or identity. ``move``: a host
    that holds a lease may get another subnet, which is ``subnet``, or one that fits the network if
    its own does not.
    """

    subnet: str | None = None
    prefer: str | None = None
    avoid: tuple[str, ...] = ()
    takeover: bool = False
    move: bool = False


class Decision(NamedTuple):
    """``before`` is the lease that the host holds now, if any; ``after`` the one it should hold.

    If their subnets differ, the host moves: the new lease is written, then ``before`` is removed.
    ``surplus`` are further leases of this host, or of one that it takes over; they are removed too.
    ``notes`` are sentences for the user about what is wrong and stays as it is.
    """

    before: Lease | None
    after: Lease
    surplus: tuple[Lease, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def moved(self) -> bool:
        return self.before is not None and self.before.key_name != self.after.key_name

    @property
    def obsolete(self) -> tuple[Lease, ...]:
        """The leases to remove once ``after`` is written."""
        return self.surplus + ((self.before,) if self.before and self.moved else ())


def decide(
    config: NetworkConfig,
    leases: Sequence[Lease],
    taken: Iterable[str],
    host: Host,
    wish: Wish,
) -> Decision:
    """The lease that ``host`` should hold.

    ``taken`` are the subnets of all keys, also of those whose value is garbage. A host keeps the
    lease of its own identity, even after its public IP has changed. If it has none, it adopts the
    one that a flanneld, which has no identity, wrote for its public IP. Otherwise it gets a free
    subnet. Raises LeaseWouldMove if it would get another subnet than it has without ``wish.move``.
    """
    if config.ipv6:
        raise DualStackUnsupported(
            "the network's config has EnableIPv6 (%s), and this version leases IPv4 subnets only; "
            "a lease without IPv6 would confuse flanneld peers, so nothing was changed"
            % config.ipv6.network
        )
    current, notes = _current_leases(config, leases, host, wish)
    own = current[0] if current else None
    others = list(taken)
    for lease in current:
        # Once each: a dual-stack key of another host may stand for the same subnet.
        if lease.subnet in others:
            others.remove(lease.subnet)
    subnet = _subnet(config, leases, current, others, host, wish)
    after = _lease(config, subnet, host)
    # A move that was interrupted has left both leases, so the wanted one may be there already.
    before = next((lease for lease in current if lease.key_name == after.key_name), own)
    if before and before.subnet == subnet:
        notes += _kept(config, subnet, others)
    surplus = tuple(lease for lease in current if lease is not before)
    return Decision(before, after, surplus, notes)


def _current_leases(
    config: NetworkConfig, leases: Iterable[Lease], host: Host, wish: Wish
) -> tuple[tuple[Lease, ...], tuple[str, ...]]:
    """The leases that become this host's one lease, the established one first; and notes about
    leases of others that record its identity or address."""
    mine: list[Lease] = []
    clones: list[Lease] = []
    adoptable: list[Lease] = []
    others: list[Lease] = []
    for lease in leases:
        if lease.host_id == host.host_id:
            (clones if is_clone(lease, host) else mine).append(lease)
        elif lease.public_ip == host.public_ip:
            (others if lease.host_id else adoptable).append(lease)
    notes: list[str] = []
    if clones and not wish.takeover:
        clone = clones[0]
        if not mine:
            raise DuplicateHostID(
                "host id %s of %s is also that of %s, which holds the lease %s; if one machine is "
                "a clone of the other, give this one a machine-id of its own; if it is the same "
                "machine with a new name and address, set %s"
                % (host.host_id, host, clone.owner, clone.subnet, option("takeover"))
            )
        notes.append(
            "the lease %s of %s records the host id of %s too; one machine may be a clone of the "
            "other; %s keeps its own lease" % (clone.subnet, clone.owner, host, host.hostname)
        )
    if others and not wish.takeover:
        other = others[0]
        if not any(lease.public_ip == host.public_ip for lease in mine):
            raise DuplicatePublicIP(
                "public IP %s of %s is also that of %s (host id %s), which holds the lease "
                "%s; correct the address of one of the two, or set %s if this host replaces the "
                "other"
                % (
                    host.public_ip,
                    host,
                    other.owner,
                    other.host_id,
                    other.subnet,
                    option("takeover"),
                )
            )
        notes.append(
            "the lease %s of %s (host id %s) records the public IP %s of %s too; two hosts cannot "
            "share one address; %s keeps its own lease"
            % (other.subnet, other.owner, other.host_id, host.public_ip, host, host.hostname)
        )

    if not wish.takeover:
        clones, others = [], []

    def rank(lease: Lease) -> tuple[bool, bool, bool, tuple[bool, bool, int, bool, str]]:
        """Leases that the host could keep come first; of these the one in use, else the oldest."""
        stays = allocation.is_within(config.ipv4, lease.subnet)
        return not stays, is_clone(lease, host), lease.subnet != wish.prefer, rank_of(lease, host)

    found = sorted(mine + clones, key=rank)
    if not found:
        fitting = [lease for lease in adoptable if _is_kept(config, lease, host, wish)]
        found = sorted(fitting or adoptable, key=rank)[:1]
    return (*found, *sorted(others, key=rank)), tuple(notes)


def _is_established(lease: Lease, host: Host, wish: Wish) -> bool:
    """Whether the host's containers may have addresses of this subnet. They have none if the lease
    is a flanneld's or another machine's, and nothing on this host names its subnet."""
    return lease.host_id == host.host_id or lease.subnet == wish.prefer


def _is_kept(config: NetworkConfig, lease: Lease, host: Host, wish: Wish) -> bool:
    """Whether a host keeps the subnet if nobody asks for another one. An established host keeps it
    after a change of SubnetLen, SubnetMin and SubnetMax, because these are about new leases."""
    return allocation.is_member(config.ipv4, lease.subnet) or (
        allocation.is_within(config.ipv4, lease.subnet) and _is_established(lease, host, wish)
    )


def _subnet(
    config: NetworkConfig,
    leases: Iterable[Lease],
    current: Sequence[Lease],
    others: Sequence[str],
    host: Host,
    wish: Wish,
) -> str:
    """The subnet to hold. ``others`` are the subnets of all keys but the host's own."""
    pool = config.ipv4
    if not current:
        if wish.subnet:
            return allocation.require_free(pool, others, wish.subnet)
        return allocation.choose(pool, others, host.host_id, wish.prefer, wish.avoid)
    own = current[0]
    kept = _is_kept(config, own, host, wish)
    tied = _is_established(own, host, wish) and not wish.move
    if wish.subnet and not (kept and wish.subnet == own.subnet):
        wanted = allocation.require_free(pool, others, wish.subnet)
        if tied and wanted != own.subnet:
            raise LeaseWouldMove(
                "%s: %s holds the lease of %s and would move to %s; a move cuts off containers "
                "with addresses of the former subnet; if the host is to move, set %s"
                % (option("subnet"), host, own.subnet, wanted, option("move"))
            )
        return wanted
    if wish.subnet or (kept and not (wish.move and _has_to_go(config, own, leases, current))):
        return own.subnet
    if tied:
        raise LeaseWouldMove(
            "the lease of %s, which %s holds, is outside the network %s; a move to another subnet "
            "cuts off containers with addresses of the former; if the host is to move, set %s, "
            "else change the network back" % (own.subnet, host, config.network, option("move"))
        )
    fitting = (each.subnet for each in current if allocation.is_member(pool, each.subnet))
    prefer = next(
        (each for each in fitting if each != own.subnet), allocation.near(pool, own.subnet)
    )
    return allocation.choose(pool, others, host.host_id, prefer or wish.prefer, wish.avoid)


def _has_to_go(
    config: NetworkConfig, own: Lease, leases: Iterable[Lease], current: Sequence[Lease]
) -> bool:
    """Whether a host that may move should: its subnet is not one that the network leases, or it
    overlaps an older lease, which peers use instead."""
    older = [
        lease.subnet
        for lease in leases
        if lease.create_revision < own.create_revision and lease not in current
    ]
    return not allocation.is_member(config.ipv4, own.subnet) or bool(
        allocation.overlapping(older, own.subnet)
    )


def _kept(config: NetworkConfig, subnet: str, others: Iterable[str]) -> tuple[str, ...]:
    """The notes about a subnet that the host keeps although something is wrong with it."""
    pool = config.ipv4
    notes = []
    if not allocation.is_member(pool, subnet):
        notes.append(
            "this host keeps its subnet %s, which is no /%d between SubnetMin %s and SubnetMax %s "
            "of %s; to move the host to such a subnet, set move (flatnet_move: true)"
            % (
                subnet,
                pool.subnet_len,
                pool.subnet_min.network_address,
                pool.subnet_max.network_address,
                pool.network,
            )
        )
    overlapping = allocation.overlapping(others, subnet)
    if overlapping:
        notes.append(
            "this host keeps its subnet %s, though other keys overlap it: %s%s; remove the keys "
            "that nobody needs"
            % (subnet, ", ".join(overlapping[:3]), ", ..." if len(overlapping) > 3 else "")
        )
    return tuple(notes)


def _lease(config: NetworkConfig, subnet: str, host: Host) -> Lease:
    backend = config.backend
    return Lease(
        subnet=subnet,
        public_ip=host.public_ip,
        backend_type=backend.lease_type,
        data=backend.lease_data(host),
        host_id=host.host_id,
        hostname=host.hostname,
        vector=host.vector if backend.relay else 0,
    )
