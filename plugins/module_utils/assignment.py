# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lease a host should hold, given all that there are.

Pure: leases.py reads them, asks here, and writes the answer, guarded so that it is written only if
what it was based on still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import allocation
from .errors import FlatnetError
from .flannel import Lease
from .identity import stable_mac
from .network import NetworkConfig


class DuplicatePublicIP(FlatnetError):
    """Another host holds a lease with this host's public IP."""


class DuplicateHostID(FlatnetError):
    """Another host holds a lease with this host's identity: a cloned image."""


class DualStackUnsupported(FlatnetError):
    """The network is dual stack, and this version provisions IPv4 only."""


class Host(NamedTuple):
    """Who asks for a lease.

    ``host_id`` identifies the machine whatever its addresses, ``hostname`` is for people.
    ``vtep_mac`` None means the stable one made from ``host_id`` and the VNI. ``vector``: the newest
    format of vectors that its relay takes, with the udp backend.
    """

    host_id: str
    hostname: str
    public_ip: str
    vtep_mac: str | None = None
    vector: int = 0

    def __str__(self) -> str:
        return "%s (%s)" % (self.hostname, self.public_ip)


class Wish(NamedTuple):
    """What a host may ask for beyond having a lease.

    ``subnet`` is insisted on, ``prefer`` taken if free; ``avoid`` are prefixes that the host uses
    otherwise; ``takeover`` takes the lease from another host with our address or identity.
    """

    subnet: str | None = None
    prefer: str | None = None
    avoid: tuple[str, ...] = ()
    takeover: bool = False


class Decision(NamedTuple):
    """``before`` is the lease held now (None: none), ``after`` the one to hold.

    Different subnets mean a move: the new lease is written, then ``before`` removed. ``surplus``
    are further leases of this same host, or of one that it takes over, to be removed.
    """

    before: Lease | None
    after: Lease
    surplus: tuple[Lease, ...] = ()

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
    lease of its own identity, even after its public IP changed; failing that it adopts one that a
    flanneld (no identity) wrote for its public IP; failing that it gets a free subnet.
    """
    if config.ipv6:
        raise DualStackUnsupported(
            "the network has EnableIPv6 (%s): this version provisions IPv4 only, and an IPv4-only "
            "lease in a dual-stack network would confuse flanneld peers" % config.ipv6.network
        )
    held_now = _held(config, leases, host, wish.takeover)
    own = held_now[0] if held_now else None
    others = list(taken)
    for lease in held_now:
        # Once each: the key of another host, dual stack, may stand for the same subnet.
        if lease.subnet in others:
            others.remove(lease.subnet)
    after = _lease(config, _subnet(config, own, others, host, wish), host)
    # A move that was cut short has left both leases, so the wanted one may be there already.
    before = next((lease for lease in held_now if lease.key_name == after.key_name), own)
    return Decision(before, after, tuple(lease for lease in held_now if lease is not before))


def held(leases: Iterable[Lease], host: Host) -> Lease | None:
    """The lease that ``host`` uses now: its own, else one that a flanneld wrote for its address."""
    found = [
        lease
        for lease in leases
        if lease.host_id == host.host_id
        or (not lease.host_id and lease.public_ip == host.public_ip)
    ]
    found.sort(key=lambda lease: _rank(lease, host))
    return found[0] if found else None


def _rank(lease: Lease, host: Host) -> tuple[bool, bool, str]:
    """Ours before adoptable ones; then the current address, since peers use that right now."""
    return lease.host_id != host.host_id, lease.public_ip != host.public_ip, lease.key_name


def _held(
    config: NetworkConfig, leases: Iterable[Lease], host: Host, takeover: bool
) -> tuple[Lease, ...]:
    """The leases that this host's one lease is to replace, the one to keep first."""
    mine: list[Lease] = []
    adoptable: list[Lease] = []
    conquered: list[Lease] = []
    for lease in leases:
        if lease.host_id == host.host_id:
            clone = lease.public_ip != host.public_ip and lease.hostname != host.hostname
            if clone and not takeover:
                raise DuplicateHostID(
                    "host id %s of %s is also that of %s, which holds the lease %s: a cloned "
                    "machine? give this one a machine-id of its own, or set takeover if it is the "
                    "same machine under a new name and address"
                    % (host.host_id, host, lease.owner, lease.subnet)
                )
            mine.append(lease)
        elif lease.public_ip == host.public_ip:
            if lease.host_id and not takeover:
                raise DuplicatePublicIP(
                    "public IP %s of %s is also that of %s (host id %s), which holds the lease "
                    "%s; two hosts cannot share one address: correct it on one of them, or set "
                    "takeover if this host replaces the other"
                    % (
                        host.public_ip,
                        host,
                        lease.owner,
                        lease.host_id,
                        lease.subnet,
                    )
                )
            (conquered if lease.host_id else adoptable).append(lease)

    def rank(lease: Lease) -> tuple[bool, tuple[bool, bool, str]]:
        return not allocation.is_member(config.ipv4, lease.subnet), _rank(lease, host)

    if not mine:
        mine = sorted(adoptable, key=rank)[:1]
    return tuple(sorted(mine, key=rank) + sorted(conquered, key=rank))


def _subnet(
    config: NetworkConfig, own: Lease | None, others: Sequence[str], host: Host, wish: Wish
) -> str:
    if wish.subnet:
        return allocation.claim(config.ipv4, others, wish.subnet)
    if own and not own.subnet6 and allocation.is_member(config.ipv4, own.subnet):
        try:
            return allocation.claim(config.ipv4, others, own.subnet)
        except allocation.SubnetUnavailable:
            pass  # overlaps another's lease: two hosts must not both keep it
    prefer = own.subnet if own else wish.prefer
    return allocation.choose(config.ipv4, others, host.host_id, prefer, wish.avoid)


def _lease(config: NetworkConfig, subnet: str, host: Host) -> Lease:
    backend = config.backend
    if backend.type != "vxlan":
        kind = "host-gw" if backend.type == "host-gw" else ""
        vector = host.vector if backend.type == "udp" else 0
        return Lease(
            subnet,
            host.public_ip,
            kind,
            host_id=host.host_id,
            hostname=host.hostname,
            vector=vector,
        )
    return Lease(
        subnet=subnet,
        public_ip=host.public_ip,
        backend_type="vxlan",
        vni=backend.vni,
        vtep_mac=host.vtep_mac or vtep_mac(host.host_id, backend.vni),
        host_id=host.host_id,
        hostname=host.hostname,
    )


def vtep_mac(host_id: str, vni: int) -> str:
    """The VTEP MAC that a host has by default: the same after every reboot and re-creation."""
    return stable_mac(host_id, "vni %d" % vni)
