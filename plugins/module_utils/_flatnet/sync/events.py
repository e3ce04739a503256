# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd's events, read: what they change about the leases, or that they ask for a listing.

Changes nothing. So events that ask for a listing leave everything as it was before all of them, and
the listing is compared with that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..etcd.client import Event, WatchResponse
from ..flannel.lease import InvalidLease, Lease, parse_lease
from ..leases.registry import Registry
from .view import View


class Batch(NamedTuple):
    """What a number of events changes.

    ``changed`` are leases by key name, None where one is gone; ``own`` is this host's lease as it
    is now. ``unreadable`` is as in View, after the events. ``garbage`` are the keys among them that
    the events wrote, with the new revisions. ``cleared``: a key is not unreadable any more of which
    it was not known what lease it had been; so the kernel may hold something for it that nobody
    knows of.
    """

    changed: dict[str, Lease | None]
    own: Lease
    unreadable: dict[str, str]
    garbage: dict[str, int]
    cleared: bool
    revision: int


class _Relist(Exception):
    """Only a listing will do."""


class _Reader:
    def __init__(self, registry: Registry, view: View, waiting: bool) -> None:
        self._registry = registry
        self._view = view
        self._waiting = waiting
        self.changed: dict[str, Lease | None] = {}
        self.own = view.own
        self._host_id = view.location.host.host_id
        self.unreadable = dict(view.unreadable)
        self.garbage: dict[str, int] = {}
        self.cleared = False

    def take(self, event: Event) -> None:
        """Raises _Relist."""
        if self._registry.is_config(event.kv.key):
            raise _Relist
        name = self._registry.lease_name(event.kv.key)
        if name is None:
            return
        lease: Lease | None = None
        if event.kind == "put":
            kv = event.kv
            try:
                lease = parse_lease(name, kv.value, kv.mod_revision, kv.lease, kv.create_revision)
            except InvalidLease as error:
                self._overwritten(name, kv.mod_revision, str(error))
                return
        if self._waiting and lease and lease.host_id and lease.host_id == self.own.host_id:
            raise _Relist  # perhaps the playbook has moved it
        if name != self.own.key_name and lease and lease.host_id == self._host_id:
            raise _Relist  # the playbook has moved this host; the former key may be another's
        if name == self.own.key_name:
            if lease is None or not lease.same_content(self.own):
                raise _Relist
            self.own = lease
        if self.unreadable.pop(name, None) and name not in self._view.table.leases:
            self.cleared = True
        self.garbage.pop(name, None)
        self.changed[name] = lease

    def _overwritten(self, name: str, revision: int, reason: str) -> None:
        """The key has a value that is no lease. If it had a lease, that stays."""
        if name == self.own.key_name:
            raise _Relist
        self.unreadable[name] = reason
        self.garbage[name] = revision
        lease = self.changed.get(name)
        if lease:
            self.changed[name] = lease._replace(mod_revision=revision)


def read(
    responses: Iterable[WatchResponse],
    registry: Registry,
    view: View,
    cluster: int,
    waiting: bool,
    revision: int,
) -> Batch | None:
    """What changes, or None if that takes a listing to find out.

    ``view``, ``cluster`` and ``revision`` are what is known so far. ``waiting``: etcd has a config
    that this host cannot go over to.
    """
    reader = _Reader(registry, view, waiting)
    try:
        for response in responses:
            if response.cluster and cluster and response.cluster != cluster:
                return None
            for event in response.events:
                reader.take(event)
            revision = max(revision, response.revision)
    except _Relist:
        return None
    return Batch(
        reader.changed, reader.own, reader.unreadable, reader.garbage, reader.cleared, revision
    )
