# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's kernel should hold so that it reaches every peer.

Pure: leases, this host and its underlay in, entries out.

From a packet's point of view, VXLAN (flannel's scheme): a pod's packet to 10.5.94.7 meets the
route ``10.5.94.0/24 via 10.5.94.0 dev flannel.1 onlink``. The next hop 10.5.94.0 is nobody's
address; it stands for the peer's VTEP, and the permanent *neighbour* entry gives that VTEP's MAC,
since nobody could answer an ARP request for it. With the MAC the frame reaches the VXLAN device,
whose *FDB* says which underlay address a frame for this MAC is sent to. So a peer is three
entries, and a packet passes them in the order route, neighbour, FDB.

With host-gw, or a directly routed peer, the peer's underlay address is itself the next hop and one
route is all. That is only true if the peer is on the underlay's own link: a gateway in between
knows nothing of our subnets and would drop or, worse, misroute the packet.

With udp, the whole network is routed to a TUN device, and a process finds the peer: see relay.py.
The kernel holds nothing for a peer; relay_table.py has what takes the place of entries.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .entries import PROTOCOL, Address, Entry, Fdb, Neigh, Route
from .errors import FlatnetError
from .flannel import Lease
from .network import NetworkConfig
from .plan import Changes, claim, plan
from .underlay import Reach, Underlay, foreign

# What a lease's BackendType must be to be reached with the network's backend; the udp backend
# carries packets to any lease's public IP.
_LEASE_TYPE = {"vxlan": "vxlan", "host-gw": "host-gw"}


class NotAdjacent(FlatnetError):
    """host-gw: peers that are not on the underlay's link."""


class LosingAllPeers(FlatnetError):
    """No peer is left in etcd while the kernel still reaches some."""


class Skipped(NamedTuple):
    """A lease that is not used as a peer, and why."""

    lease: Lease
    reason: str

    def __str__(self) -> str:
        return "lease %s of %s is not used: %s" % (self.lease.subnet, self.lease.owner, self.reason)


class Peers(NamedTuple):
    """The leases to reach, and those that must not be."""

    usable: tuple[Lease, ...]
    skipped: tuple[Skipped, ...]


class Rules:
    """Which leases this host may send packets to.

    ``own`` is this host's lease; ``addresses`` are the host's addresses, without those on devices
    of the overlay itself. What one lease says is judged by ``refusal``; what leases may not say
    together, by ``select``. With ``link``, peers that host-gw cannot reach are refused as well.
    """

    def __init__(
        self,
        config: NetworkConfig,
        own: Lease,
        addresses: Iterable[Address],
        link: Adjacency | None = None,
    ) -> None:
        self._config = config
        self._own = own
        self._link = link
        self._network = _span(config.network)
        self._local = {own.public_ip}
        self._broadcast: set[str] = set()
        pool = config.ipv4
        self._pool = _span(str(pool.subnet_min))[0], _span(str(pool.subnet_max))[1]
        # Compared as (first, last) numbers: thousands of leases, a handful of networks.
        self._blocked = [(_span(own.subnet), "this host's own subnet %s" % own.subnet)]
        for address in addresses:
            if ":" in address.address:
                continue
            connected = ipaddress.ip_interface(address.address)
            self._local.add(str(connected.ip))
            if connected.network.prefixlen < 31:
                self._broadcast.add(str(connected.network.network_address))
                self._broadcast.add(str(connected.network.broadcast_address))
            words = "%s, which this host is connected to" % (connected.network,)
            self._blocked.append((_span(str(connected.network)), words))

    def refusal(self, lease: Lease) -> str | None:
        """Why this lease must not be used, whatever the others are; None if it may be."""
        backend = self._config.backend
        wanted = _LEASE_TYPE.get(backend.type)
        low, high = _span(lease.subnet)
        if low < self._network[0] or high > self._network[1]:
            return "it is outside the network %s" % self._config.network
        if low <= _number(lease.public_ip) <= high:
            return "its public IP %s is inside its own subnet" % lease.public_ip
        if self._pool[0] <= _number(lease.public_ip) <= self._pool[1]:
            return "its public IP %s is inside the overlay" % lease.public_ip
        if lease.public_ip in self._broadcast:
            return "its public IP %s is a broadcast address here" % lease.public_ip
        if lease.public_ip in self._local:
            return "its public IP is one of this host's"
        if wanted and lease.backend_type != wanted:
            kind = lease.backend_type or "udp or alloc"
            return "its backend is %s, the network's is %s" % (kind, wanted)
        if wanted == "vxlan" and lease.vni not in (None, backend.vni):
            return "its VNI is %s, the network's is %s" % (lease.vni, backend.vni)
        if wanted == "vxlan" and lease.vtep_mac == self._own.vtep_mac:
            return "its VTEP MAC %s is this host's too" % lease.vtep_mac
        for (start, end), words in self._blocked:
            if low <= end and start <= high:
                return "it overlaps " + words
        return self._link.away(lease) if self._link and backend.type == "host-gw" else None

    def select(self, leases: Iterable[Lease]) -> Peers:
        """Those that may be used, in the order of their keys.

        The kernel tells peers apart by the VTEP's MAC and by the subnet's first address. Of several
        leases with one of these, the first key wins, on every host alike.
        """
        usable: list[Lease] = []
        skipped: list[Skipped] = []
        holders: dict[str, Lease] = {}
        for lease in sorted(leases, key=lambda lease: lease.key_name):
            if lease.key_name == self._own.key_name:
                continue
            reason = self.refusal(lease) or _clash(lease, holders)
            if reason is None:
                usable.append(lease)
                holders.update(dict.fromkeys(marks(lease), lease))
            else:
                skipped.append(Skipped(lease, reason))
        return Peers(tuple(usable), tuple(skipped))


def _clash(lease: Lease, holders: Mapping[str, Lease]) -> str | None:
    for mark in marks(lease):
        other = holders.get(mark)
        # One host may hold two subnets, with one VTEP.
        if other and (mark != lease.vtep_mac or other.public_ip != lease.public_ip):
            return "%s is that of %s too" % (mark, other.owner)
    return None


def marks(lease: Lease) -> tuple[str, ...]:
    """What the kernel tells this peer from others by."""
    first = lease.subnet.partition("/")[0]
    return (first, lease.vtep_mac) if lease.vtep_mac else (first,)


class Adjacency:
    """How peers' underlay addresses are reached: without a gateway, or not."""

    def __init__(self, underlay: Underlay, routes: Iterable[Route]) -> None:
        self.underlay = underlay
        self._reach = Reach(foreign(routes))

    def away(self, lease: Lease) -> str | None:
        """Why the peer is not on the underlay's link; None if it is."""
        route = self._reach.route(lease.public_ip)
        if route is None:
            return "there is no route to it"
        if route.dev != self.underlay.interface or route.gateway:
            return "it is reached through %s" % (route.gateway or route.dev)
        return None


def encode(config: NetworkConfig, peers: Iterable[Lease], link: Adjacency) -> tuple[Entry, ...]:
    """What reaches usable ``peers``; host-gw takes them to be on the link."""
    backend = config.backend
    # The udp backend's device takes all of the network; it has no entries for peers.
    device = backend.device if backend.type == "vxlan" else None
    wanted: list[Entry] = []
    for lease in peers:
        if backend.type == "host-gw" or (
            device and backend.direct_routing and not link.away(lease)
        ):
            wanted.append(Route(lease.subnet, link.underlay.interface, lease.public_ip))
        elif device and lease.vtep_mac:
            hop = lease.subnet.partition("/")[0]
            wanted.append(Neigh(device, hop, lease.vtep_mac))
            wanted.append(Fdb(device, lease.vtep_mac, lease.public_ip))
            wanted.append(Route(lease.subnet, device, hop, onlink=True))
    return tuple(wanted)


def entries(
    config: NetworkConfig, peers: Iterable[Lease], underlay: Underlay, routes: Iterable[Route]
) -> tuple[Entry, ...]:
    """The same, but raises NotAdjacent naming every host-gw peer off the link."""
    peers = tuple(peers)
    link = Adjacency(underlay, routes)
    if config.backend.type == "host-gw":
        reasons = ((lease, link.away(lease)) for lease in peers)
        missed = ["%s (%s)" % (lease.owner, reason) for lease, reason in reasons if reason]
        if missed:
            raise NotAdjacent(
                "host-gw needs every peer on the link of %s (%s); not on it: %s; use the vxlan "
                "backend, with DirectRouting for the hosts that do share a link"
                % (underlay.interface, underlay.address, ", ".join(missed))
            )
    return encode(config, peers, link)


def standing(config: NetworkConfig) -> tuple[Route, ...]:
    """Routes that are there whatever peers there are: with udp, all of the network's."""
    backend = config.backend
    if backend.type != "udp" or not backend.device:
        return ()
    return (Route(config.network, backend.device),)


def changes(
    wanted: Iterable[Entry],
    device: str | None,
    held: Iterable[Entry],
    routes: Iterable[Route],
    unsure: Iterable[str] = (),
    allow_no_peers: bool = True,
) -> Changes:
    """What to change so that the kernel reaches exactly the wanted peers.

    ``held`` are the neighbours and FDB entries of the overlay's ``device``, ``routes`` all of the
    main table's. Ours are the routes of our protocol and those through our device, whoever made
    them: the device is ours. A foreign route in a wanted place is adopted if it says the same
    apart from its protocol, as a flanneld's does; otherwise RouteTaken, before anything changes.

    ``unsure`` are subnets whose key is there with a value that nobody understands. That is missing
    information: whatever the kernel does for them stays.
    """
    wanted = tuple(wanted)

    def ours(route: Route) -> bool:
        return route.protocol == PROTOCOL or route.dev == device

    own = claim(wanted, routes, ours)
    observed: list[Entry] = [entry for entry in held if isinstance(entry, (Neigh, Fdb))]
    observed += own
    reached = sum(map(ours, own))
    if reached and not wanted and not allow_no_peers:
        raise LosingAllPeers(
            "etcd names no peer that this host could reach, while its kernel reaches %d: nothing "
            "was removed; if the fleet really shrank to this host, set allow_no_peers" % reached
        )
    return plan(wanted, _without(observed, wanted, frozenset(unsure)))


def _without(
    observed: list[Entry], wanted: Iterable[Entry], subnets: frozenset[str]
) -> list[Entry]:
    """``observed`` without what reaches ``subnets``, unless something else is wanted there."""
    if not subnets:
        return observed
    firsts = {subnet.partition("/")[0] for subnet in subnets}
    macs = {e.mac for e in observed if isinstance(e, Neigh) and e.address in firsts}
    keys = {entry.key for entry in wanted}

    def stays(entry: Entry) -> bool:
        if isinstance(entry, Route):
            return entry.dst in subnets
        if isinstance(entry, Neigh):
            return entry.address in firsts
        return isinstance(entry, Fdb) and entry.mac in macs

    return [entry for entry in observed if entry.key in keys or not stays(entry)]


def _span(prefix: str) -> tuple[int, int]:
    """First and last address of an IPv4 prefix, as numbers."""
    address, length = prefix.split("/")
    first = _number(address)
    return first, first + (1 << 32 - int(length)) - 1


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")
