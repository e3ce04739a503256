# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel knows of bridges, their ports, and who is behind them."""

from __future__ import annotations

import socket

from . import linkinfo, messages, netlink
from .entries import Fdb, Link, Neigh, Port
from .netlink import Netlink, by_index, by_name


class Bridging:
    """Reads only; a device that is not there has nothing. Use as a context manager."""

    def __init__(self) -> None:
        self._netlink = Netlink()

    def __enter__(self) -> Bridging:
        return self

    def __exit__(self, *failure: object) -> None:
        self._netlink.close()

    def links(self, kind: str) -> list[Link]:
        """All devices of a kind."""
        names = by_index()
        bodies = self._netlink.dump(netlink.RTM_GETLINK, linkinfo.request())
        return [linkinfo.decode(each, names) for each in bodies if linkinfo.kind(each) == kind]

    def above(self, name: str) -> list[str]:
        """The devices that stand on this one, and go with it: VLANs, macvlans, VXLAN devices."""
        names = by_index()
        found = []
        for body in self._netlink.dump(netlink.RTM_GETLINK, linkinfo.request()):
            link = linkinfo.decode(body, names)
            # The kernel does not tell a VXLAN device's as that of others.
            below = link.option.get("dev") or names.get(linkinfo.below(body))
            if below == name != link.name:
                found.append(link.name)
        return sorted(found)

    def port(self, name: str) -> Port | None:
        """What its bridge keeps of a device; None if it is no bridge's port."""
        index = by_name().get(name)
        if index is None:
            return None
        body = self._netlink.get(netlink.RTM_GETLINK, linkinfo.request(index))
        return linkinfo.port(body) if body else None

    def learned(self, dev: str) -> list[Fdb]:
        """FDB entries that a VXLAN device learned from frames."""
        names = by_index()
        index = {name: number for number, name in names.items()}.get(dev)
        if index is None:
            return []
        bodies = self._netlink.dump(netlink.RTM_GETNEIGH, messages.fdb_request(index))
        found = (messages.decode_fdb(each, dev, index, names, learned=True) for each in bodies)
        return [entry for entry in found if entry]

    def behind(self, bridge: str) -> list[tuple[str, str]]:
        """The ports of a bridge, each with the MAC addresses that are behind it."""
        names = by_index()
        index = {name: number for number, name in names.items()}.get(bridge)
        if index is None:
            return []
        bodies = self._netlink.dump(netlink.RTM_GETNEIGH, messages.bridge_request(index))
        found = (messages.decode_bridge_fdb(each, index) for each in bodies)
        return sorted({(names.get(each[0], ""), each[1]) for each in found if each})

    def heard(self, dev: str) -> list[Neigh]:
        """Neighbours of a device that answered, or that somebody told the kernel."""
        index = by_name().get(dev)
        if index is None:
            return []
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            request = messages.neigh_request(family, index)
            for body in self._netlink.dump(netlink.RTM_GETNEIGH, request):
                neigh = messages.decode_known_neigh(body, dev, index)
                if neigh and body[0] == family:
                    found.append(neigh)
        return found
