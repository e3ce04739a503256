# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that is a dictionary: see fakes.py."""

from __future__ import annotations

import errno
import ipaddress
import typing as t
from collections.abc import Callable, Hashable, Iterable

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    MAIN_TABLE,
    PROTOCOL,
    Address,
    Entry,
    Fdb,
    Interface,
    Link,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import (
    Kernel,
    RefusedChange,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.netlink import Refusal
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Change

VTEP = "flannel.1"
ADDRESS = "172.21.0.10"
GATEWAY = "172.21.0.1"


class FakeKernel(Kernel):
    """What a kernel holds, as a dictionary; what it refuses is ``refuse``'s reason.

    Strict as the kernel: nothing stands on a device that is not there, nothing is added twice, and
    a device takes along what stands on it.
    """

    def __init__(self) -> None:
        self.address = Address("eth0", ADDRESS + "/24")
        network = str(ipaddress.ip_interface(self.address.address).network)
        self.entries: dict[Hashable, Entry] = {}
        self.put(
            Link("eth0", "", 1500, "02:00:00:ff:00:01"),
            self.address,
            Route(network, "eth0", src=ADDRESS, protocol=2),
            Route("0.0.0.0/0", "eth0", GATEWAY, protocol=3),
        )
        # The batches that were applied, and whether anything was read since.
        self.batches: list[list[Change]] = []
        self.refuse: Callable[[Change], Refusal | None] = lambda _change: None

    def put(self, *entries: Entry) -> None:
        """Somebody else's doing."""
        self.entries.update((each.key, each) for each in entries)

    def drop(self, *entries: Entry) -> None:
        """Somebody else's doing."""
        for each in entries:
            del self.entries[each.key]

    def move(self, address: str) -> None:
        """The underlay gets another address."""
        self.drop(self.address)
        self.address = Address("eth0", address + "/24")
        self.put(self.address)

    def reached(self) -> set[str]:
        """Subnets that there is a route to."""
        return {each.dst for each in self.of(Route) if each.protocol == PROTOCOL}

    def tunnels(self) -> set[tuple[str, str, str]]:
        """Subnet, MAC and underlay address of each peer that packets get to through the VTEP."""
        neighbours = {each.address: each.mac for each in self.of(Neigh)}
        fdb = {each.mac: each.dst for each in self.of(Fdb)}
        found = set()
        for route in self.of(Route):
            if route.dev == VTEP:
                mac = neighbours[route.gateway]
                found.add((route.dst, mac, fdb[mac]))
        # One host may hold two subnets, with one VTEP.
        assert len(found) == len(neighbours), "neighbours that no route leads to"
        assert set(neighbours.values()) == set(fdb), "FDB entries that no neighbour leads to"
        return found

    def of(self, kind: type[t.Any]) -> list[t.Any]:
        return [each for each in self.entries.values() if isinstance(each, kind)]

    # What Kernel asks netlink.

    def __exit__(self, *failure: object) -> None:
        pass

    def interfaces(self) -> dict[str, Interface]:
        links = self.of(Link)
        return {
            each.name: Interface(each.name, number, each.mtu or 1500)
            for number, each in enumerate(links, 1)
        }

    def link(self, name: str) -> Link | None:
        found = self.entries.get(("link", name))
        return found if isinstance(found, Link) else None

    def ports(self, name: str) -> list[str]:
        return [each.name for each in self.of(Link) if each.master == name]

    def addresses(self, dev: str | None = None) -> list[Address]:
        return [each for each in self.of(Address) if dev in (None, each.dev)]

    def routes(self, table: int | None = MAIN_TABLE, foreign: bool = False) -> list[Route]:
        return [
            each
            for each in self.of(Route)
            if table in (None, each.table) and not (foreign and each.protocol == PROTOCOL)
        ]

    def overlaid(self, address: str) -> bool:
        number = ipaddress.ip_address(address)
        fitting = [each for each in self.of(Route) if number in ipaddress.ip_network(each.dst)]
        best = max(fitting, key=lambda each: ipaddress.ip_network(each.dst).prefixlen)
        return bool(best.dev == VTEP)

    def entries_on(self, dev: str, _routes: Iterable[Route] | None = None) -> list[Entry]:
        found = [each for each in self.entries.values() if getattr(each, "dev", None) == dev]
        return [each for each in found if not (isinstance(each, Route) and each.protocol == 2)]

    def _step(self, batch: list[Change]) -> dict[int, RefusedChange]:
        self.batches.append(batch)
        refused = {}
        for index, change in enumerate(batch):
            refusal = self.refuse(change) or self._do(change)
            if refusal:
                refused[index] = RefusedChange(change, refusal)
        return refused

    def _do(self, change: Change) -> Refusal | None:
        before, after = change
        if after is None:
            assert before is not None
            self.entries.pop(before.key, None)
            if isinstance(before, Link):
                for each in self.entries_on(before.name):
                    del self.entries[each.key]
            return None
        if before is None and after.key in self.entries:
            return Refusal(errno.EEXIST, "")
        if not isinstance(after, Link) and ("link", after.dev) not in self.entries:
            return Refusal(errno.ENODEV, "")
        self.entries[after.key] = after
        return None
