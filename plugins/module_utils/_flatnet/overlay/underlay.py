# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The underlay: the interface and address by which peers reach a host, and who is on its link.

Pure: takes what kernel.py observed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..addresses import ipv4_number
from ..backends.protocol import Peer
from ..errors import FlatnetError, option
from ..kernel.entries import PROTOCOL, Address, Interface, Route


class NoUnderlay(FlatnetError):
    """No interface, or more than one, fits what was asked for."""


class Underlay(NamedTuple):
    """``address`` has its prefix length (``172.30.1.11/24``). ``mtu`` is in bytes. ``why`` says,
    for people, how the interface was found."""

    interface: str
    address: str
    mtu: int
    why: str

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


def choose(
    interfaces: Mapping[str, Interface],
    addresses: Sequence[Address],
    routes: Sequence[Route],
    interface: str | None = None,
    pattern: str | None = None,
    can_reach: str | None = None,
    ignore: Iterable[str] = (),
) -> Underlay:
    """The underlay's interface, by the first of these that is given: ``interface`` (a name, an
    address of the interface, or a prefix that its address is in), ``pattern`` (a regular
    expression that exactly one name matches whole), ``can_reach`` (an address: the interface that
    routes to it). With none of them: the default route's, else the only one there is.

    ``ignore`` are devices of our own. Raises NoUnderlay, listing the candidates.
    """
    skip = set(ignore) | {"lo"}
    usable: dict[str, list[str]] = {}
    for address in addresses:
        # An interface that the user names is taken even if it looks like ours.
        wanted = interface or address.dev not in skip
        if wanted and address.dev in interfaces and ":" not in address.address:
            usable.setdefault(address.dev, []).append(address.address)

    def found(names: Sequence[str], why: str, inside: str | None = None) -> Underlay:
        if len(names) != 1:
            raise NoUnderlay(
                "%s interface for the underlay: %s; this host has %s; "
                "set %s, %s or %s"
                % (
                    "no" if not names else "more than one",
                    why if not names else "%s fits %s" % (why, ", ".join(names)),
                    "; ".join("%s %s" % (name, " ".join(usable[name])) for name in sorted(usable))
                    or "no interface with an IPv4 address",
                    *map(option, ("interface", "interface_regex", "can_reach")),
                )
            )
        own = [text for text in usable[names[0]] if inside is None or _inside(text, inside)]
        return Underlay(names[0], own[0], interfaces[names[0]].mtu, why)

    if interface and re.fullmatch(r"[0-9.]+(/[0-9]+)?", interface):
        names = [n for n in usable if any(_inside(text, interface) for text in usable[n])]
        return found(names, "address %s" % interface, interface)
    if interface:
        return found([n for n in usable if n == interface], "name %s" % interface)
    if pattern:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise NoUnderlay(
                "%s %r is not a regular expression: %s"
                % (option("interface_regex"), pattern, error)
            ) from None
        return found([n for n in usable if expression.fullmatch(n)], "pattern %s" % pattern)
    foreign = [route for route in routes if route.dev not in skip]
    if can_reach:
        route = Reach(foreign).route(can_reach)
        names = [route.dev] if route and route.dev in usable else []
        return found(names, "route to %s" % can_reach)
    defaults = sorted((r for r in foreign if r.dst == "0.0.0.0/0"), key=lambda r: r.metric)
    if defaults and defaults[0].dev in usable:
        return found([defaults[0].dev], "default route")
    return found(list(usable), "only interface with an address")


class Reach:
    """Finds the route with the longest prefix, with one dictionary look-up per prefix length."""

    def __init__(self, routes: Iterable[Route]) -> None:
        tables: dict[int, dict[int, Route]] = {}
        # Of several routes to one prefix the lowest metric counts, and then the kernel's order.
        for route in sorted(routes, key=lambda route: route.metric):
            prefix, text = route.dst.split("/")
            if ":" in prefix:
                continue
            length = int(text)
            tables.setdefault(length, {}).setdefault(ipv4_number(prefix) >> (32 - length), route)
        self._tables: tuple[tuple[int, dict[int, Route]], ...] = tuple(
            sorted(tables.items(), reverse=True)
        )

    def route(self, address: str) -> Route | None:
        """The route that a packet to this IPv4 address takes."""
        number = ipv4_number(address)
        for length, table in self._tables:
            route = table.get(number >> (32 - length))
            if route:
                return route
        return None

    def on_link(self, address: str, interface: str) -> bool:
        """Whether the address is reached through ``interface`` without a gateway."""
        route = self.route(address)
        return route is not None and route.dev == interface and route.gateway is None


class Adjacency:
    """The underlay's link, and whether peers are on it, that is, reached without a gateway."""

    def __init__(self, underlay: Underlay, routes: Iterable[Route]) -> None:
        self.underlay = underlay
        self._reach = Reach(foreign(routes))

    @property
    def interface(self) -> str:
        return self.underlay.interface

    def away(self, lease: Peer) -> str | None:
        """Why the peer is not on the underlay's link; None if it is."""
        route = self._reach.route(lease.public_ip)
        if route is None:
            return "there is no route to it"
        if route.dev != self.underlay.interface or route.gateway:
            return "it is reached through %s" % (route.gateway or route.dev)
        return None


def foreign(routes: Iterable[Route]) -> list[Route]:
    """The routes that are not ours. They say how the underlay itself is reached."""
    return [route for route in routes if route.protocol != PROTOCOL]


def _inside(address: str, prefix: str) -> bool:
    try:
        return ipaddress.ip_interface(address).ip in ipaddress.ip_network(prefix, strict=False)
    except ValueError:
        raise NoUnderlay("interface %r is not an address or a prefix" % prefix) from None
