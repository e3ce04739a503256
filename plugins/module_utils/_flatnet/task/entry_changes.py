# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel has to change so that it holds the entries that a task asks for.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..kernel.entries import Entry, Fdb, Neigh, Route
from ..kernel.plan import Changes, adoptable_routes, plan
from .entry_options import ROUTE, Asked, EntryForm, wanted

E = TypeVar("E", Fdb, Neigh, Route)


def changes(
    form: EntryForm, params: Mapping[str, Any], asked: Sequence[Asked], observed: Iterable[E]
) -> Changes:
    """The changes that add the entries, and with ``exclusive`` remove all others. With state
    absent, the changes that remove them."""
    if params["state"] == "absent":
        return _removals(form, asked, observed)
    desired: list[E] = wanted(form, params, asked)
    keys = {entry.key for entry in desired}
    every = params["exclusive"]
    return plan(desired, [entry for entry in observed if every or entry.key in keys])


def route_changes(
    params: Mapping[str, Any], asked: Sequence[Asked], observed: Iterable[Route]
) -> Changes:
    """As ``changes``, for routes. ``observed`` has everybody's routes. Raises plan.RouteTaken."""
    desired = wanted(ROUTE, params, asked) if params["state"] == "present" else []
    keys = {route.key for route in desired}
    device = params["device"]

    def ours(route: Route) -> bool:
        here = device in (None, route.dev) or route.key in keys
        return here and route.protocol == params["protocol"]

    return changes(ROUTE, params, asked, adoptable_routes(desired, observed, ours))


def _removals(form: EntryForm, asked: Iterable[Asked], observed: Iterable[E]) -> Changes:
    """The changes that remove each observed entry that has all fields of one that was asked for."""
    first = form.names[form.first]
    by_first: dict[Any, list[dict[str, Any]]] = {}
    for dummy, fields in asked:
        by_first.setdefault(fields[first], []).append(fields)
    gone: list[Entry] = [
        entry
        for entry in observed
        if any(
            all(getattr(entry, name) == value for name, value in fields.items())
            for fields in by_first.get(getattr(entry, first), ())
        )
    ]
    return plan((), gone)
