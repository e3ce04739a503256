# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An etcd in memory that can be watched, and that can fail; and its clock: see fakes.py."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Sequence

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    EtcdCompacted,
    EtcdError,
    EtcdTimeout,
    EtcdUnreachable,
    Event,
    KeyValue,
    Op,
    Range,
    TxnResult,
    WatchResponse,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease

from tests.unit.leases.fake_etcd import FakeEtcd
from tests.unit.leases.network import PREFIX, SUBNETS

ENDPOINT = "http://198.51.100.1:2379"
WATCH = 3  # what a loop polls


class Clock:
    """Stands in for the module ``time`` in the modules that measure time."""

    CLOCK_BOOTTIME = 7

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def clock_gettime(self, _clock: int) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class History(t.NamedTuple):
    """All revisions, from 0 on: the keys that there were, and the events that led there."""

    states: list[dict[str, KeyValue]]
    events: list[tuple[Event, ...]]


class WatchedEtcd(FakeEtcd):
    """The fake of tests/unit/leases with all that WatchingClient offers a service: past revisions,
    watches, and questions to the member of a watch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._history = History([{}, {}], [(), ()])
        self.cluster = 7
        self.compacted = 0
        self.away = False
        # The member that watches are at does not answer questions, until it is avoided.
        self.silent = False
        # No watch is told anything.
        self.holds_back = False
        self.avoided: list[str] = []
        self.watches: list[FakeWatch] = []
        self.waits: Callable[[], None] = lambda: None
        # Called before each listing.
        self.before_listing: Callable[[], None] = lambda: None

    # What happens to it.

    def empty(self) -> None:
        """It is replaced by one that has nothing, of another cluster."""
        self.cluster += 1
        self.compacted = 0
        self.revision = 1
        self.keys = {}
        self._history = History([{}, {}], [(), ()])

    def restore(self, revision: int) -> None:
        """It is restored from a backup, as the same cluster."""
        self.revision = revision
        self.keys = dict(self._history.states[revision])
        for each in self._history:
            del each[revision + 1 :]

    def compact(self) -> None:
        self.compacted = self.revision

    def expire(self) -> None:
        """All etcd leases run out."""
        for number in list(self.etcd_leases):
            self.lease_revoke(number)

    def put_lease(self, *leases: Lease) -> None:
        """All in one transaction."""
        self._write(*(Op.put(SUBNETS + each.key_name, each.to_json()) for each in leases))

    def delete_lease(self, *leases: Lease) -> None:
        self._write(*(Op.delete(SUBNETS + each.key_name) for each in leases))

    def put_garbage(self, number: int, value: str = "no lease") -> None:
        self._write(Op.put(SUBNETS + "10.5.%d.0-24" % number, value))

    def put_config(self, text: str) -> None:
        self._write(Op.put(PREFIX + "/config", text))

    def delete_config(self) -> None:
        self._write(Op.delete(PREFIX + "/config"))

    def _write(self, *operations: Op) -> None:
        """Somebody else does, who reaches it always."""
        super().txn([], operations)
        self._record()

    def lease_of(self, number: int) -> str:
        """What stands there; empty if nothing does."""
        found = self.keys.get(SUBNETS + "10.5.%d.0-24" % number)
        return found.value.decode() if found else ""

    def events_after(self, revision: int) -> list[WatchResponse]:
        """One response for each revision, as etcd's watch tells them."""
        return [
            WatchResponse(number, self._history.events[number], self.cluster)
            for number in range(revision + 1, self.revision + 1)
            if self._history.events[number]
        ]

    # As WatchingClient has them.

    @property
    def reached(self) -> tuple[str, ...]:
        return ("198.51.100.1",)

    def while_waiting(self, call: Callable[[], None]) -> None:
        self.waits = call

    def close(self) -> None:
        pass

    def avoid(self, endpoint: str) -> None:
        self.avoided.append(endpoint)
        self.silent = False

    def get(self, key: str) -> Range:
        self._answer()
        found = super().get(key)
        return Range(found.revision, found.kvs, found.count, self.cluster)

    def range_prefix(self, prefix: str, revision: int | None = None) -> Range:
        self._answer()
        self.before_listing()
        if revision and revision < self.compacted:
            raise EtcdCompacted("revision %d is compacted" % revision, self.compacted)
        there = self._history.states[revision or self.revision]
        kvs = tuple(there[key] for key in sorted(there) if key.startswith(prefix))
        return Range(revision or self.revision, kvs, len(kvs), self.cluster)

    def txn(self, compares: Sequence[Compare], success: Sequence[Op]) -> TxnResult:
        self._answer()
        try:
            return super().txn(compares, success)
        finally:
            self._record()

    def lease_revoke(self, lease: int) -> bool:
        try:
            return super().lease_revoke(lease)
        finally:
            self._record()

    def watch(self, _prefix: str, start_revision: int) -> FakeWatch:
        self._answer()
        if start_revision <= self.compacted:
            raise EtcdCompacted("revision %d is compacted" % start_revision, self.compacted)
        watch = FakeWatch(self, start_revision)
        self.watches.append(watch)
        return watch

    def pulse(self, _endpoint: str, _key: str) -> FakePulse:
        return FakePulse(self, self._clock)

    def client(self) -> WatchingClient:
        return t.cast(WatchingClient, self)

    def _answer(self) -> None:
        if self.away:
            raise EtcdUnreachable("etcd cannot be reached")

    def _record(self) -> None:
        """Keep the revision that there is now, if it is a new one."""
        states, events = self._history
        if self.revision < len(states):
            return
        before, now = states[-1], dict(self.keys)
        gone = [KeyValue(key, b"", 0, self.revision, 0, 0) for key in before if key not in now]
        written = [kv for kv in now.values() if kv.mod_revision == self.revision]
        states.append(now)
        events.append(
            (*(Event("delete", kv) for kv in gone), *(Event("put", kv) for kv in written))
        )


class FakeWatch:
    """Tells each revision once. ``end`` is the error that it ends with."""

    endpoint = ENDPOINT
    ready = False

    def __init__(self, server: WatchedEtcd, start: int) -> None:
        self._server = server
        self._told = start - 1
        self.revision = server.revision
        self.cluster = server.cluster
        self.end: EtcdError | None = None
        self.closed = False

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(self, *failure: object) -> None:
        self.closed = True

    def fileno(self) -> int:
        return WATCH

    @property
    def readable(self) -> bool:
        news = not self._server.holds_back and bool(self._server.events_after(self._told))
        return not self.closed and (news or self.end is not None)

    def read(self, _timeout: float) -> WatchResponse | None:
        if self.end is not None:
            raise self.end
        if not self.readable:
            return None
        response = self._server.events_after(self._told)[0]
        self._told = response.revision
        return response


class FakePulse:
    """Answers at once, or not at all."""

    def __init__(self, server: WatchedEtcd, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self.asked = False
        self.deadline = 0.0

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        self.asked = False

    def ask(self) -> None:
        self.asked, self.deadline = True, self._clock.now + 5

    def read(self) -> Range | None:
        if self._server.silent:
            if self._clock.now >= self.deadline:
                raise EtcdTimeout("no answer in time")
            return None
        self.asked = False
        return Range(self._server.revision, (), 0, self._server.cluster)
