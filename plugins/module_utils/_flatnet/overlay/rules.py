# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which leases a host uses as peers.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..addresses import ipv4_number, span
from ..flannel.clashes import Clashes, seniority
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease
from ..kernel.entries import Address
from .underlay import Adjacency

# 0.0.0.0/8, in which no host has an address, and 169.254.0.0/16.
_THIS_NETWORK = 1 << 24
_LINK_LOCAL = 0xA9FE


class Skipped(NamedTuple):
    """A lease that is not used as a peer, and why."""

    lease: Lease
    reason: str

    def __str__(self) -> str:
        return "lease %s of %s is not used: %s" % (self.lease.subnet, self.lease.owner, self.reason)


class Peers(NamedTuple):
    """The leases that this host uses as peers, and those that it does not."""

    usable: tuple[Lease, ...]
    skipped: tuple[Skipped, ...]


class Rules:
    """Which leases this host may send packets to.

    ``own`` is this host's lease. ``addresses`` are the host's addresses, without those on devices
    of the overlay. ``needed`` are the addresses that it has to reach apart from the overlay, each
    with what it is. With ``link``, peers that are not on it are refused, if the backend needs them
    there.

    ``refusal`` judges one lease alone. ``choose`` judges leases that clash with each other.

    A subnet has to be one that the network leases, or one that it leased before its config changed.
    etcd's revisions show the latter, because nobody can choose a revision: the lease's key is older
    than ``config_revision``, the revision of the config's last change. If one of these is not known
    (0), nothing shows that the network ever leased the subnet.
    """

    def __init__(
        self,
        config: NetworkConfig,
        own: Lease,
        addresses: Iterable[Address],
        link: Adjacency | None = None,
        *,
        config_revision: int = 0,
        needed: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._config_revision = config_revision
        self._own = own
        self._link = link
        self._network = span(config.network)
        self._local = {own.public_ip}
        self._broadcast: set[str] = set()
        pool = config.ipv4
        self._pool = span(str(pool.subnet_min))[0], span(str(pool.subnet_max))[1]
        self._size = 1 << 32 - pool.subnet_len
        # Compared as (first, last) numbers: thousands of leases, a handful of networks.
        self._blocked = [(span(own.subnet), "this host's own subnet %s" % own.subnet)]
        self._needed = [(ipv4_number(each), each, words) for each, words in (needed or {}).items()]
        for address in addresses:
            if ":" in address.address:
                continue
            connected = ipaddress.ip_interface(address.address)
            self._local.add(str(connected.ip))
            if connected.network.prefixlen < 31:
                self._broadcast.add(str(connected.network.network_address))
                self._broadcast.add(str(connected.network.broadcast_address))
            words = "%s, which this host is connected to" % (connected.network,)
            self._blocked.append((span(str(connected.network)), words))

    def refusal(self, lease: Lease) -> str | None:
        """Why this lease must not be used, whatever other leases there are; None if it may be."""
        low, high = span(lease.subnet)
        if low < self._network[0] or high > self._network[1]:
            return "it is outside the network %s" % self._config.network
        for (start, end), words in self._blocked:
            if low <= end and start <= high:
                return "it overlaps " + words
        for number, address, words in self._needed:
            if low <= number <= high:
                return "it covers %s, which is %s" % (address, words)
        if not self._leased(low, high, lease.create_revision):
            pool = self._config.ipv4
            return "it is not a /%d between SubnetMin %s and SubnetMax %s, and %s" % (
                pool.subnet_len,
                pool.subnet_min.network_address,
                pool.subnet_max.network_address,
                "its key is newer than the network's config"
                if lease.create_revision and self._config_revision
                else "nothing shows that it was leased under an older config",
            )
        return self._unreachable(lease) or self._unsuitable(lease)

    def _leased(self, low: int, high: int, created: int) -> bool:
        """Whether the network leases this subnet, or did before its config was changed."""
        now = high - low + 1 == self._size and self._pool[0] <= low and high <= self._pool[1]
        return now or 0 < created < self._config_revision

    def _unreachable(self, lease: Lease) -> str | None:
        """Why no packet may be sent to the lease's public IP; None if it may."""
        number = ipv4_number(lease.public_ip)
        low, high = span(lease.subnet)
        if low <= number <= high:
            return "its public IP %s is inside its own subnet" % lease.public_ip
        if self._pool[0] <= number <= self._pool[1]:
            return "its public IP %s is inside the overlay" % lease.public_ip
        if lease.public_ip in self._broadcast:
            return "its public IP %s is a broadcast address here" % lease.public_ip
        if lease.public_ip in self._local:
            return "its public IP %s is an address of this host" % lease.public_ip
        if number < _THIS_NETWORK:
            return "its public IP %s cannot be the address of a host" % lease.public_ip
        if number >> 16 == _LINK_LOCAL and ipv4_number(self._own.public_ip) >> 16 != _LINK_LOCAL:
            return "its public IP %s is a link-local address" % lease.public_ip
        return None

    def _unsuitable(self, lease: Lease) -> str | None:
        """Why the network's backend cannot carry packets to the host; None if it can."""
        backend = self._config.backend
        reason = backend.refusal(lease, self._own)
        return self._link.away(lease) if not reason and self._link and backend.on_link else reason

    def is_no_peer(self, lease: Lease) -> bool:
        """Whether the lease is not judged at all: it is this host's own, or the backend carries no
        packets."""
        return lease.key_name == self._own.key_name or not self._config.backend.carries

    def select(self, leases: Iterable[Lease]) -> Peers:
        """The leases that may be used, and those that may not, in the order of their keys."""
        able: list[Lease] = []
        skipped: list[Skipped] = []
        for lease in leases:
            reason = None if self.is_no_peer(lease) else self.refusal(lease)
            if reason is None:
                able.append(lease)
            else:
                skipped.append(Skipped(lease, reason))
        chosen = self.choose(able)
        return Peers(
            chosen.usable,
            tuple(sorted((*skipped, *chosen.skipped), key=_name)),
        )

    def choose(self, leases: Iterable[Lease]) -> Peers:
        """As ``select``, of leases that ``refusal`` allows: of those that clash, the oldest one."""
        usable: list[Lease] = []
        skipped: list[Skipped] = []
        held = Clashes()
        for lease in sorted(leases, key=seniority):
            if self.is_no_peer(lease):
                continue
            reason = held.reason(lease)
            if reason is None:
                usable.append(lease)
                held.add(lease)
            else:
                skipped.append(Skipped(lease, reason))
        return Peers(tuple(sorted(usable, key=_name)), tuple(sorted(skipped, key=_name)))


def _name(found: Lease | Skipped) -> str:
    return (found.lease if isinstance(found, Skipped) else found).key_name
