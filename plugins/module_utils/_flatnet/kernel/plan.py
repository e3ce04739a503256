# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what has to change in a kernel, in which order, and how to take it back.

Pure, and the only place that compares desired with observed. A change is an object before and the
same object after; None means "not there". The diff shows both columns. The inverse is the columns
swapped, in reverse order.

    desired   {key: entry} ---+
                              +--> changes --> --check prints them
    observed  {key: entry} ---+           \\--> kernel.apply() does them, unwinds on failure

The order is right for packets that pass while the kernel changes. What a route needs is made before
the route: device, address, neighbour, FDB, route. A route is removed before what it needs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Callable, NamedTuple

from ..errors import FlatnetError
from .entries import Address, Entry, Fdb, Link, Neigh, Port, Route, format_option

_ORDER = {Link: 0, Port: 1, Address: 2, Neigh: 3, Fdb: 4, Route: 5}

# rtm_protocol of routes that the kernel makes for addresses.
_KERNEL = 2


class RouteTaken(FlatnetError):
    """Somebody else's routes have the keys of ours; these are ``keys``."""

    def __init__(self, message: str, keys: frozenset[Hashable]) -> None:
        super().__init__(message)
        self.keys = keys


class Change(NamedTuple):
    """One object of a kernel, before and after."""

    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> type[Entry]:
        return type(self.before if self.after is None else self.after)  # type: ignore[return-value]

    @property
    def inverse(self) -> Change:
        return Change(self.after, self.before)

    def __str__(self) -> str:
        if self.before is None:
            return "add %s" % (self.after,)
        if self.after is None:
            return "remove %s" % (self.before,)
        before, after = self
        if isinstance(before, Link) and isinstance(after, Link):
            return "change link %s: %s" % (after.name, ", ".join(_steps(before, after)))
        return "change %s to %s" % (before, after)


Changes = tuple[Change, ...]


def plan(desired: Iterable[Entry], observed: Iterable[Entry]) -> Changes:
    """The changes that make ``observed`` equal ``desired``.

    ``observed`` holds only what may be changed or removed. The caller decides what that is.
    """
    want = _index(desired)
    have = _index(observed)
    put: list[Change] = []
    drop: list[Change] = []
    for key, entry in want.items():
        before = have.get(key)
        if before != entry:
            put.append(Change(before, entry))
    for key, entry in have.items():
        if key not in want:
            drop.append(Change(entry, None))
    # Sorting is stable and by kind only: entries keep the order in which they were desired.
    put.sort(key=lambda change: _ORDER[change.kind])
    drop.sort(key=lambda change: -_ORDER[change.kind])
    return tuple(put + drop)


def adoptable_routes(
    wanted: Iterable[Entry], routes: Iterable[Route], ours: Callable[[Route], bool]
) -> list[Route]:
    """The ``routes`` that may be changed or removed so that the ``wanted`` ones are there.

    These are ours, and routes of somebody else that equal a wanted one apart from the protocol:
    they are adopted. Another route with the key of a wanted one raises RouteTaken. The kernel's own
    routes are never ours, nor are routes that a Route cannot express.
    """
    by_key = {entry.key: entry for entry in wanted if isinstance(entry, Route)}
    found: list[Route] = []
    taken: dict[Hashable, str] = {}
    for route in routes:
        want = by_key.get(route.key)
        free = route.simple and route.protocol != _KERNEL
        same = want and want == route._replace(protocol=want.protocol)
        if free and (ours(route) or same):
            found.append(route)
        elif want:
            taken[want.key] = "%s is wanted, and %s is there" % (want, route)
    if taken:
        raise RouteTaken(
            "routes of somebody else are in the way: %s; nothing was changed; remove them, or give "
            "yours another metric" % "; ".join(taken.values()),
            frozenset(taken),
        )
    return found


def inverse(changes: Iterable[Change]) -> Changes:
    """The changes that undo ``changes``."""
    return tuple(change.inverse for change in reversed(tuple(changes)))


def outcome(changes: Iterable[Change], observed: Iterable[Entry]) -> list[Entry]:
    """The entries that there are when ``changes`` are made to ``observed``."""
    entries = _index(observed)
    for before, after in changes:
        if before is not None:
            entries.pop(before.key, None)
        if after is not None:
            entries[after.key] = after
    return list(entries.values())


def diff(changes: Iterable[Change]) -> dict[str, str]:
    """Ansible's before and after, a line for every object that changes."""
    changes = tuple(changes)
    return {
        side: "".join(
            "%s\n" % (entry,)
            for entry in (getattr(change, side) for change in changes)
            if entry is not None
        )
        for side in ("before", "after")
    }


def _steps(before: Link, after: Link) -> list[str]:
    """What changes about a device, each as ``mtu 1450 to 1400``."""
    old, new = before.to_dict(), after.to_dict()
    return [
        "%s %s to %s" % (name, format_option(old.get(name)), format_option(value))
        for name, value in new.items()
        if old.get(name) != value
    ]


def _index(entries: Iterable[Entry]) -> dict[Hashable, Entry]:
    return {entry.key: entry for entry in entries}
