# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's kernel should hold so that it reaches every peer.

Pure: takes leases, this host and its underlay, and returns entries. The backend says which entries
a peer needs: see backends/.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FlatnetError, LosingAllPeers, option
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease
from ..kernel.entries import PROTOCOL, Entry, Fdb, Neigh, Route
from ..kernel.plan import Changes, adoptable_routes, plan
from .underlay import Adjacency, Underlay


class NotAdjacent(FlatnetError):
    """Peers that are not on the underlay's link, with a backend that needs them there."""


def encode(config: NetworkConfig, peers: Iterable[Lease], link: Adjacency) -> tuple[Entry, ...]:
    """The entries that reach usable ``peers``. If the backend needs peers on the link, this does
    not check it."""
    entries_of = config.backend.entries
    wanted: list[Entry] = []
    for lease in peers:
        wanted += entries_of(lease, link)
    return tuple(wanted)


def entries(
    config: NetworkConfig, peers: Iterable[Lease], underlay: Underlay, routes: Iterable[Route]
) -> tuple[Entry, ...]:
    """As ``encode``. Raises NotAdjacent, which names every peer that has to be on the link and is
    not."""
    peers = tuple(peers)
    link = Adjacency(underlay, routes)
    if config.backend.on_link:
        reasons = ((lease, link.away(lease)) for lease in peers)
        missed = ["%s (%s)" % (lease.owner, reason) for lease, reason in reasons if reason]
        if missed:
            raise NotAdjacent(
                "the backend %s needs every peer on the link of %s (%s); these are not on it: %s; "
                "use the vxlan backend, with DirectRouting for the hosts that share a link"
                % (config.backend.type, underlay.interface, underlay.address, ", ".join(missed))
            )
    return encode(config, peers, link)


def network_routes(config: NetworkConfig) -> tuple[Route, ...]:
    """Routes that do not depend on peers."""
    return config.backend.network_routes(config.network)


def changes(
    wanted: Iterable[Entry],
    device: str | None,
    held: Iterable[Entry],
    routes: Iterable[Route],
    unreadable: Iterable[str] = (),
    allow_no_peers: bool = True,
    network_routes: Iterable[Route] = (),
) -> Changes:
    """What to change so that the kernel reaches exactly the wanted peers.

    ``held`` are the neighbours and FDB entries of the overlay's ``device``. ``routes`` are all
    routes of the main table. Ours are those of our protocol, and those through our device, whoever
    made them. A foreign route with the key of a wanted one is adopted if it says the same apart
    from its protocol, as a flanneld's does. Otherwise this raises RouteTaken.

    ``unreadable`` are subnets whose key has a value that we cannot read. This is missing
    information, so the kernel's entries for them stay. ``network_routes`` are wanted as well, but
    reach no peer. Raises LosingAllPeers, unless ``allow_no_peers``.
    """
    peers, standing = tuple(wanted), tuple(network_routes)
    wanted = (*peers, *standing)
    keys = {route.key for route in standing}

    def ours(route: Route) -> bool:
        return route.protocol == PROTOCOL or route.dev == device

    own = adoptable_routes(wanted, routes, ours)
    observed: list[Entry] = [entry for entry in held if isinstance(entry, (Neigh, Fdb))]
    observed += own
    reached = sum(ours(route) and route.key not in keys for route in own)
    if reached and not peers and not allow_no_peers:
        raise LosingAllPeers(
            "etcd names no peer that this host could reach, but its kernel reaches %d; nothing "
            "was removed; if this host is the last one of its fleet, set %s"
            % (reached, option("allow_no_peers"))
        )
    return plan(wanted, _without(observed, wanted, frozenset(unreadable)))


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
