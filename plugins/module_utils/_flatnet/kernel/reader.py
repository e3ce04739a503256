# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel of the network namespace we run in holds."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TypeVar

from . import linkinfo, messages, netlink, route_lookup
from .entries import (
    MAIN_TABLE,
    PROTOCOL,
    ZERO_MAC,
    Address,
    Entry,
    Fdb,
    Interface,
    Link,
    Neigh,
    Route,
    default_destination,
)
from .netlink import Netlink, by_index, by_name

_FAMILIES = (socket.AF_INET, socket.AF_INET6)

R = TypeVar("R", bound="KernelReader")


class KernelReader:
    """Devices, addresses, neighbours, FDB and routes of this network namespace.

    Use as a context manager. Returns only what could be ours: permanent entries, addresses of
    global scope, unicast routes.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *failure: object) -> None:
        self._netlink.close()

    def interfaces(self) -> dict[str, Interface]:
        """All devices by name."""
        bodies = self._netlink.dump(netlink.RTM_GETLINK, linkinfo.request())
        return {
            name: Interface(name, index, mtu)
            for name, index, mtu, _master in map(linkinfo.brief, bodies)
        }

    def link(self, name: str) -> Link | None:
        """A device as it is; ``kind`` is empty for hardware. None if there is none."""
        names = by_index()
        index = {each: number for number, each in names.items()}.get(name)
        if index is None:
            return None
        body = self._netlink.get(netlink.RTM_GETLINK, linkinfo.request(index))
        return linkinfo.decode(body, names) if body else None

    def ports(self, name: str) -> list[str]:
        """The devices whose master this one is."""
        bodies = self._netlink.dump(netlink.RTM_GETLINK, linkinfo.request())
        found = list(map(linkinfo.brief, bodies))
        index = next((number for each, number, _mtu, _master in found if each == name), None)
        return sorted(each for each, _number, _mtu, master in found if index == master)

    def addresses(self, dev: str | None = None) -> list[Address]:
        """Addresses of global and site scope, of one device or of all."""
        names = by_index()
        found = []
        for family in _FAMILIES:
            request = messages.address_request(family)
            for body in self._dump(netlink.RTM_GETADDR, family, request):
                address = messages.decode_address(body, names)
                if address and dev in (None, address.dev):
                    found.append(address)
        return found

    def neighbours(self, dev: str) -> list[Neigh]:
        """Permanent neighbours of a device; empty if there is no such device."""
        index = by_name().get(dev)
        if index is None:
            return []
        found = []
        for family in _FAMILIES:
            request = messages.neigh_request(family, index)
            for body in self._dump(netlink.RTM_GETNEIGH, family, request):
                neigh = messages.decode_neigh(body, dev, index)
                if neigh:
                    found.append(neigh)
        return found

    def fdb(self, dev: str) -> list[Fdb]:
        """Permanent FDB entries of a VXLAN device; empty if there is no such device.

        Without the default destination that the kernel keeps for the device's own ``group``.
        """
        names = by_index()
        index = {name: number for number, name in names.items()}.get(dev)
        if index is None:
            return []
        found = []
        request = messages.fdb_request(index)
        for body in self._netlink.dump(netlink.RTM_GETNEIGH, request):
            entry = messages.decode_fdb(body, dev, index, names)
            if entry:
                found.append(entry)
        if any(entry.mac == ZERO_MAC for entry in found):
            link = self.link(dev)
            default = default_destination(link) if link else None
            found = [entry for entry in found if entry != default]
        return found

    def routes(self, table: int | None = MAIN_TABLE, foreign: bool = False) -> list[Route]:
        """The routes of a table, of both families; None: of all tables.

        ``foreign``: only those of another protocol than ours. These are few, while ours may be
        thousands.
        """
        names = by_index()
        found = []
        for family in _FAMILIES:
            request = messages.route_request(family, table or 0)
            try:
                bodies = self._dump(netlink.RTM_GETROUTE, family, request)
            except netlink.NetlinkError:
                if table == MAIN_TABLE:
                    raise
                continue  # a strict dump of a table that does not exist is refused with ENOENT
            for body in bodies:
                if foreign and messages.route_protocol(body) == PROTOCOL:
                    continue
                route = messages.decode_route(body, table, names)
                if route:
                    found.append(route)
        return found

    def overlaid(self, address: str) -> bool:
        """Whether packets to an IPv4 address go into the overlay: see route_lookup.py."""
        return route_lookup.overlaid(self._netlink, address)

    def entries_on(self, dev: str, routes: Iterable[Route] | None = None) -> list[Entry]:
        """All that a device holds and would lose with it: addresses, neighbours, FDB, routes of
        all tables. Routes that the kernel makes by itself for an address are left out.

        ``routes`` are those of all tables, where they have been read already.
        """
        if dev not in by_name():
            return []
        if routes is None:
            routes = self.routes(None)
        found: list[Entry] = []
        found += self.addresses(dev)
        found += self.neighbours(dev)
        found += self.fdb(dev)
        found += [r for r in routes if r.dev == dev and r.protocol != 2]
        return found

    def _dump(self, kind: int, family: int, request: bytes) -> list[bytes]:
        """A dump of one family: a kernel without IPv6 answers with everything it has instead."""
        return [body for body in self._netlink.dump(kind, request) if body[0] == family]
