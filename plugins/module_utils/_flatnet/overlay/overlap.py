# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the overlay's subnets would hide what a host uses otherwise.

A route to a peer's subnet leads all of its addresses into the overlay. So a subnet that may be
leased must not hold an address of this host's own networks, a gateway, or a needed address (see
needs.py). What the overlay or a flanneld has made here is no conflict: its devices, the bridge with
this host's subnet, and routes to single subnets.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..addresses import ipv4_number, span
from ..errors import InvalidInput
from ..flannel.config import NetworkConfig
from ..kernel import messages, netlink
from ..kernel.entries import MAIN_TABLE, PROTOCOL, Address, Route
from ..kernel.route_lookup import FLANNEL, overlaid
from .needs import Needs, controllers

# Routes that lead nowhere.
_NOWHERE = ("(blackhole)", "(unreachable)", "(prohibit)", "(throw)")


class NetworkOverlaps(InvalidInput):
    """The network covers addresses that this host needs otherwise."""


class Surroundings(NamedTuple):
    """What a host uses: its addresses, routes that are not ours, and needed addresses, each with
    what it is."""

    addresses: Sequence[Address]
    routes: Sequence[Route]
    needed: Mapping[str, str]


def remembered(path: str) -> str | None:
    """The subnet that a subnet.env says this host uses; None without such a file or line."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    for line in text.splitlines():
        name, found, value = line.strip().partition("=")
        if name == "FLANNEL_SUBNET" and found:
            try:
                return str(ipaddress.IPv4Interface(value.strip('"')).network)
            except ValueError:
                return None
    return None


def observe(endpoints: Iterable[str] = ()) -> Surroundings:
    """Look at the kernel, IPv4 only and without pyroute2, and at what the host has to reach.

    ``endpoints`` are etcd's URLs. Those with a name instead of an address are ignored.
    """
    names = dict(socket.if_nameindex())
    family = socket.AF_INET
    with contextlib.closing(netlink.Netlink()) as kernel:
        addresses = kernel.dump(netlink.RTM_GETADDR, messages.address_request(family))
        routes = kernel.dump(netlink.RTM_GETROUTE, messages.route_request(family, MAIN_TABLE))
        needs = Needs(endpoints, controllers(), lambda address: overlaid(kernel, address))
        needed = needs.look((), ())
    found = (messages.decode_route(body, MAIN_TABLE, names) for body in routes)
    return Surroundings(
        [each for each in (messages.decode_address(body, names) for body in addresses) if each],
        [each for each in found if each and each.protocol != PROTOCOL],
        needed,
    )


def check(
    config: NetworkConfig, host: Surroundings, bridge: str | None, subnets: Collection[str] = ()
) -> None:
    """Raise NetworkOverlaps, naming each interface and address that is in the way.

    ``bridge`` belongs to the overlay. So does each device with the gateway address of one of
    ``subnets``.
    """
    found = conflicts(config, host, bridge, subnets)
    if found:
        pool = config.ipv4
        raise NetworkOverlaps(
            "network: the subnets of %s, %s to %s, overlap what this host uses otherwise: %s%s; "
            "choose another network, or a SubnetMin and SubnetMax that leave these addresses out"
            % (
                pool.network,
                pool.subnet_min.network_address,
                pool.subnet_max.broadcast_address,
                "; ".join(found[:5]),
                "; ..." if len(found) > 5 else "",
            )
        )


def conflicts(
    config: NetworkConfig, host: Surroundings, bridge: str | None, subnets: Collection[str] = ()
) -> list[str]:
    """What the overlay's subnets would hide, in words."""
    pool = config.ipv4
    low, high = int(pool.subnet_min.network_address), int(pool.subnet_max.broadcast_address)
    mine = [span(subnet) for subnet in subnets]
    gateways = {first + 1 for first, dummy in mine}
    own = {bridge} | {
        each.dev
        for each in host.addresses
        if FLANNEL.fullmatch(each.dev) or ipv4_number(each.address.partition("/")[0]) in gateways
    }

    def ours(first: int, last: int) -> bool:
        return any(start <= first and last <= end for start, end in mine)

    found: list[str] = []
    links: list[tuple[int, int]] = []
    for each in host.addresses:
        if each.dev in own:
            continue
        first, last = span(each.address)
        links.append((first, last))
        if first <= high and low <= last and not ours(first, last):
            found.append("%s has %s" % (each.dev, each.address))
    needed = dict(host.needed)
    all_first, all_last = span(config.network)
    for route in host.routes:
        if route.dev in own or route.dev in _NOWHERE:
            continue
        if route.gateway and ":" not in route.gateway:
            needed[route.gateway] = "the gateway of %s" % route.dev
        first, last = span(route.dst)
        # A wider route stays in force for all that no subnet of a peer takes. One through a gateway
        # that is as long as a subnet may be a flanneld's.
        within = all_first <= first and last <= all_last and first <= high and low <= last
        flannelds = route.gateway and int(route.dst.partition("/")[2]) >= pool.subnet_len
        if within and not flannelds and (first, last) not in links and not ours(first, last):
            found.append("a route of %s goes to %s" % (route.dev, route.dst))
    # With some backends the whole network is routed into the overlay.
    for route in config.backend.network_routes(config.network):
        first, last = span(route.dst)
        low, high = min(low, first), max(high, last)
    for address, what in needed.items():
        number = ipv4_number(address)
        linked = any(first <= number <= last for first, last in links)
        if low <= number <= high and not linked and not ours(number, number):
            found.append("%s is %s" % (address, what))
    return list(dict.fromkeys(found))
