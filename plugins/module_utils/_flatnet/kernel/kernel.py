# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel of the network namespace we run in: observe it, apply changes to it.

Devices have many options, so they go through devices.py and pyroute2. A device has thousands of
entries, so these go through netlink.py, which needs no library.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from ..errors import FlatnetError
from . import linkinfo, messages, netlink, route_lookup
from .devices import Devices, by_index, by_name
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
from .netlink import Netlink, Refusal
from .plan import Change, Changes, inverse

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Of converge_apart: a round is needed if the one before has found another part that fails.
_ROUNDS = 8
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


NEEDS_ROOT = "changing the network needs root (CAP_NET_ADMIN)"


class RefusedChange(NamedTuple):
    """A change that was not made, and why."""

    change: Change
    refusal: Refusal

    def __str__(self) -> str:
        return "%s: %s" % self


class KernelError(FlatnetError):
    """Changes were not made; ``refused`` has each of them."""

    def __init__(self, message: str, refused: tuple[RefusedChange, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused

    @property
    def errno(self) -> int:
        """The kernel's first refusal; 0 if it has given no number."""
        return next((each.refusal.errno for each in self.refused if each.refusal.errno), 0)


class Kernel:
    """Devices, addresses, neighbours, FDB and routes of this network namespace.

    Use as a context manager. Reads return only what could be ours: permanent entries, addresses
    of global scope, unicast routes.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._devices = Devices(self.link)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *failure: object) -> None:
        self._netlink.close()
        self._devices.close()

    # --- observe --------------------------------------------------------------------------------

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

    # --- apply ----------------------------------------------------------------------------------

    def apply(self, changes: Changes) -> None:
        """Carry out ``changes`` in order; if one is refused, take back those already done.

        Raises KernelError with every refused entry of the failing step.
        """
        done: list[Change] = []
        for dummy, step in itertools.groupby(changes, key=lambda change: change.kind):
            batch = list(step)
            refused = self._step(batch)
            done += [change for index, change in enumerate(batch) if index not in refused]
            if refused:
                raise self._unwound(tuple(refused.values()), done)

    def apply_apart(
        self, changes: Changes, part: Callable[[Change], str | None]
    ) -> dict[str, RefusedChange]:
        """As ``apply``, but a part whose change is refused fails alone: its other changes are taken
        back, and the changes of all other parts are made. Returns the parts that failed, each with
        its first refusal.

        All parts depend on changes of no part (None). If one of these is refused, everything is
        taken back, and this raises KernelError.
        """
        done: list[Change] = []
        failed: dict[str, RefusedChange] = {}
        for dummy, step in itertools.groupby(changes, key=lambda change: change.kind):
            batch = [change for change in step if part(change) not in failed]
            refused = self._step(batch) if batch else {}
            done += [change for index, change in enumerate(batch) if index not in refused]
            base = tuple(each for each in refused.values() if part(each.change) is None)
            if base:
                raise self._unwound(base, done)
            for each in refused.values():
                failed.setdefault(part(each.change) or "", each)
        self._take_back([change for change in done if part(change) in failed])
        return failed

    def converge_apart(
        self,
        compute: Callable[[frozenset[str]], Changes],
        part: Callable[[Change], str | None],
        check_mode: bool = False,
    ) -> tuple[Changes, dict[str, RefusedChange]]:
        """As ``converge``, but a part whose change is refused fails alone. ``compute`` is given the
        parts that failed, and plans without them, so that nothing of them stays half done.

        Returns the changes made, and the parts that failed, each with the first refusal.
        """
        made: Changes = ()
        refused: dict[str, RefusedChange] = {}
        settled = False  # whether the last round made all that it was to make
        for dummy in range(_ROUNDS):
            changes = compute(frozenset(refused))
            if not changes or check_mode:
                return (*made, *changes), refused
            if settled:
                left = tuple(change for change in changes if part(change) is None)
                if left:
                    raise _not_done(made, left)
                found = {
                    part(change) or "": RefusedChange(
                        change, Refusal(0, "acknowledged, but not done")
                    )
                    for change in changes
                }
            else:
                found = self.apply_apart(changes, part)
                made += tuple(change for change in changes if part(change) not in found)
            refused.update(found)
            settled = not found
        raise _not_done(made, compute(frozenset(refused)))

    def converge(self, compute: Callable[[], Changes], check_mode: bool) -> Changes:
        """Apply what ``compute`` plans from a fresh observation, then check that nothing is left.

        Returns the changes. In check mode they are only planned. The check is needed, because the
        kernel acknowledges some requests without doing anything.
        """
        changes = compute()
        if changes and not check_mode:
            self.apply(changes)
            left = compute()
            if left:
                raise _not_done(changes, left)
        return changes

    def _unwound(self, refused: tuple[RefusedChange, ...], done: list[Change]) -> KernelError:
        left = self._take_back(done)
        words = "the kernel refused to %s" % (refused[0],)
        if len(refused) > 1:
            words += "; and %d more" % (len(refused) - 1)
        if any(each.refusal.needs_root for each in refused):
            words += "; " + NEEDS_ROOT
        if left:
            words += "; could not be taken back: " + "; ".join(left[:5])
        elif done:
            words += "; the %d changes made before were taken back" % len(done)
        return KernelError(words, refused)

    def _take_back(self, done: list[Change]) -> list[str]:
        """Undo changes. Returns what could not be undone, with the reason."""
        left: list[str] = []
        for dummy, step in itertools.groupby(inverse(done), key=lambda change: change.kind):
            left += map(str, self._step(list(step)).values())
        return left

    def _step(self, batch: list[Change]) -> dict[int, RefusedChange]:
        """Changes of one kind; the refused ones by their index."""
        if batch[0].kind is Link:
            refused = self._change_devices(batch)
        else:
            with _promoting(each for each in batch if each.after is None):
                refused = self._send(batch)
        return {index: RefusedChange(batch[index], why) for index, why in sorted(refused.items())}

    def _change_devices(self, batch: list[Change]) -> dict[int, Refusal]:
        """Devices, one after the other; none is tried after one that was refused."""
        refused: dict[int, Refusal] = {}
        for index, change in enumerate(batch):
            if refused:
                refused[index] = Refusal(0, "not tried")
                continue
            refusal = self._devices.change(change.before, change.after)  # type: ignore[arg-type]
            if refusal:
                refused[index] = refusal
        return refused

    def _send(self, batch: list[Change]) -> dict[int, Refusal]:
        """Entries of one kind, as one batch; the refused ones by their index."""
        devices = by_name()
        sent: list[int] = []
        requests: list[netlink.Message] = []
        refused: dict[int, Refusal] = {}
        for index, (before, after) in enumerate(batch):
            try:
                parts = messages.encode(before, after, devices)  # type: ignore[arg-type]
                requests += parts
                sent += [index] * len(parts)
            except KeyError as missing:
                if after is not None:
                    refused[index] = Refusal(0, "device %s does not exist" % missing.args[0])
        for number, refusal in self._netlink.batch(requests).items():
            index = sent[number]
            if batch[index].after is not None or refusal.errno not in _GONE:
                refused[index] = refusal
        return refused


def _not_done(changes: Changes, left: Changes) -> KernelError:
    return KernelError(
        "the kernel acknowledged all %d changes, but %d objects are not as they should be: %s; "
        "look for a program on this host that changes them back"
        % (len(changes), len(left), "; ".join(str(change) for change in left[:5])),
        tuple(RefusedChange(change, Refusal(0, "not done")) for change in left),
    )


def _conf(device: str, name: str) -> str:
    return "/proc/sys/net/ipv4/conf/%s/%s" % (device, name)


@contextlib.contextmanager
def _promoting(batch: Iterable[Change]) -> Iterator[None]:
    """Make the kernel keep a device's other addresses while primary ones are removed.

    By default the kernel removes, with an address, all later ones of the same prefix.
    """
    changed: dict[str, str] = {}
    for device in {each.before.dev for each in batch if isinstance(each.before, Address)}:
        path = _conf(device, "promote_secondaries")
        try:
            with open(path, "r+", encoding="ascii") as file:
                value = file.read()
                if not int(value):
                    file.seek(0)
                    file.write("1")
                    changed[path] = value
        except OSError:  # the device is gone, or /proc is read-only: converge() would notice
            continue
    try:
        yield
    finally:
        for path, value in changed.items():
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
                file.write(value)
