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
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .entries import PROTOCOL, Address, Entry, Fdb, Neigh, Route
from .errors import FlatnetError
from .flannel import Lease
from .network import NetworkConfig
from .plan import Changes, plan
from .underlay import Reach, Underlay, foreign

# What a lease's BackendType must be to be reached with the network's backend; the udp backend
# carries packets to any lease's public IP.
_LEASE_TYPE = {"vxlan": "vxlan", "host-gw": "host-gw"}

# rtm_protocol of routes that the kernel makes for addresses.
_KERNEL = 2


class NotAdjacent(FlatnetError):
    """host-gw: peers that are not on the underlay's link."""


class RouteTaken(FlatnetError):
    """Somebody else's route stands where a peer's has to be."""


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


def select(
    config: NetworkConfig, leases: Iterable[Lease], own: Lease, addresses: Sequence[Address]
) -> Peers:
    """Which of ``leases`` this host may send packets to.

    ``addresses`` are the host's addresses; those on devices of the overlay itself must be left
    out by the caller. A lease is refused if it lies outside the network, overlaps our own subnet
    or a network this host is connected to, claims our address or MAC, or is of another backend or
    VNI.
    """
    network = config.ipv4.network
    # Compared as (first, last) numbers: thousands of leases, a handful of networks.
    blocked = [(_span(own.subnet), "it overlaps this host's own subnet %s" % own.subnet)]
    local = {own.public_ip}
    for address in addresses:
        if ":" in address.address:
            continue
        connected = ipaddress.ip_interface(address.address)
        local.add(str(connected.ip))
        blocked.append(
            (
                _span(str(connected.network)),
                "it overlaps %s, which this host is connected to" % (connected.network,),
            )
        )
    first, last = _span(str(network))
    macs = {own.vtep_mac: own} if own.vtep_mac else {}
    usable: list[Lease] = []
    skipped: list[Skipped] = []
    wanted = _LEASE_TYPE.get(config.backend.type)
    for lease in leases:
        if lease.key_name == own.key_name:
            continue
        low, high = _span(lease.subnet)
        reason = None
        if low < first or high > last:
            reason = "it is outside the network %s" % network
        elif low <= _number(lease.public_ip) <= high:
            reason = "its public IP %s is inside its own subnet" % lease.public_ip
        elif lease.public_ip in local:
            reason = "its public IP is one of this host's"
        elif wanted and lease.backend_type != wanted:
            reason = "its backend is %s, the network's is %s" % (
                lease.backend_type or "udp or alloc",
                wanted,
            )
        elif wanted == "vxlan" and lease.vni not in (None, config.backend.vni):
            reason = "its VNI is %s, the network's is %s" % (lease.vni, config.backend.vni)
        elif wanted == "vxlan" and lease.vtep_mac in macs:
            other = macs[lease.vtep_mac]
            if other is own or other.public_ip != lease.public_ip:
                reason = "its VTEP MAC %s is that of %s too" % (lease.vtep_mac, other.owner)
        if reason is None:
            for (start, end), words in blocked:
                if low <= end and start <= high:
                    reason = words
                    break
        if reason is not None:
            skipped.append(Skipped(lease, reason))
            continue
        if lease.vtep_mac:
            macs[lease.vtep_mac] = lease
        usable.append(lease)
    return Peers(tuple(usable), tuple(skipped))


def entries(
    config: NetworkConfig, peers: Iterable[Lease], underlay: Underlay, routes: Iterable[Route]
) -> tuple[Entry, ...]:
    """What reaches ``peers``. Raises NotAdjacent naming every host-gw peer off the link."""
    backend = config.backend
    device = backend.device
    reach = Reach(foreign(routes))
    wanted: list[Entry] = []
    off_link: list[str] = []
    for lease in peers:
        direct = backend.type == "host-gw" or (
            backend.direct_routing and reach.on_link(lease.public_ip, underlay.interface)
        )
        if backend.type == "host-gw" and not reach.on_link(lease.public_ip, underlay.interface):
            route = reach.route(lease.public_ip)
            how = "no route" if route is None else "through %s" % (route.gateway or route.dev)
            off_link.append("%s (%s)" % (lease.owner, how))
        elif direct:
            wanted.append(Route(lease.subnet, underlay.interface, lease.public_ip))
        elif device and lease.vtep_mac:
            hop = lease.subnet.partition("/")[0]
            wanted.append(Neigh(device, hop, lease.vtep_mac))
            wanted.append(Fdb(device, lease.vtep_mac, lease.public_ip))
            wanted.append(Route(lease.subnet, device, hop, onlink=True))
    if off_link:
        raise NotAdjacent(
            "host-gw needs every peer on the link of %s (%s); not on it: %s; use the vxlan "
            "backend, with DirectRouting for the hosts that do share a link"
            % (underlay.interface, underlay.address, ", ".join(off_link))
        )
    return tuple(wanted)


def changes(
    wanted: Iterable[Entry],
    device: str | None,
    held: Iterable[Entry],
    routes: Iterable[Route],
    allow_no_peers: bool = True,
) -> Changes:
    """What to change so that the kernel reaches exactly the wanted peers.

    ``held`` are the neighbours and FDB entries of the overlay's ``device``, ``routes`` all of the
    main table's. Ours are the routes of our protocol and those through our device, whoever made
    them: the device is ours. A foreign route in a wanted place is adopted if it says the same
    apart from its protocol, as a flanneld's does; otherwise RouteTaken, before anything changes.
    """
    wanted = tuple(wanted)
    places = {entry.key: entry for entry in wanted if isinstance(entry, Route)}
    observed: list[Entry] = [entry for entry in held if isinstance(entry, (Neigh, Fdb))]
    taken: list[str] = []
    reached = 0
    for route in routes:
        if route.protocol == _KERNEL:
            continue
        if route.protocol == PROTOCOL or (device and route.dev == device):
            observed.append(route)
            reached += 1
        elif route.key in places:
            if route._replace(protocol=0) == places[route.key]._replace(protocol=0):
                observed.append(route)
            else:
                taken.append("%s is wanted, and there is %s" % (places[route.key], route))
    if taken:
        raise RouteTaken(
            "routes of somebody else are in the way, nothing was changed: %s; remove them, or give "
            "them another metric" % "; ".join(taken)
        )
    if reached and not wanted and not allow_no_peers:
        raise LosingAllPeers(
            "etcd names no peer that this host could reach, while its kernel reaches %d: nothing "
            "was removed; if the fleet really shrank to this host, set allow_no_peers" % reached
        )
    return plan(wanted, observed)


def _span(prefix: str) -> tuple[int, int]:
    """First and last address of an IPv4 prefix, as numbers."""
    address, length = prefix.split("/")
    first = _number(address)
    return first, first + (1 << 32 - int(length)) - 1


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")
