# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An etcd of one member in memory: see fakes.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    EtcdCompacted,
    EtcdLeaseNotFound,
    EtcdTimeout,
    EtcdUnreachable,
    Event,
    KeyValue,
    Op,
    Range,
    TxnResult,
    WatchResponse,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease

PREFIX = "/coreos.com/network"
SUBNETS = PREFIX + "/subnets/"
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


class FakeEtcd:
    """What an EtcdClient of one member answers: every revision is kept until it is compacted."""

    url = "http://198.51.100.1:2379"

    def __init__(self, clock: Clock, cluster: int = 7) -> None:
        self._clock = clock
        self.cluster = cluster
        self.compacted = 0
        self.away = False
        # How the member is that watches are at, until it is avoided: it does not answer. And how
        # all of them are: they do not tell a watch all.
        self.silent = False
        self.holds_back = False
        # Called at each transaction and listing, before it is carried out.
        self.before_write: Callable[[], None] = lambda: None
        self.before_listing: Callable[[], None] = lambda: None
        self.avoided: list[str] = []
        self.watches: list[FakeWatch] = []
        self.ttls: dict[int, int] = {}
        self._numbers = itertools.count(100)
        self._states: list[dict[str, KeyValue]] = [{}, {}]
        self._events: list[tuple[Event, ...]] = [(), ()]

    @property
    def revision(self) -> int:
        return len(self._states) - 1

    def empty(self) -> None:
        """It is replaced by one that has nothing, of another cluster."""
        self.cluster += 1
        self.compacted = 0
        self._states, self._events = [{}, {}], [(), ()]

    def restore(self, revision: int) -> None:
        """It is restored from a backup, as the same cluster."""
        del self._states[revision + 1 :]
        del self._events[revision + 1 :]

    def compact(self) -> None:
        self.compacted = self.revision

    def events_after(self, revision: int) -> list[WatchResponse]:
        """One response for each revision, as etcd's watch tells them."""
        return [
            WatchResponse(number, self._events[number], self.cluster)
            for number in range(revision + 1, self.revision + 1)
            if self._events[number]
        ]

    # Leases, for tests.

    def put_lease(self, *leases: Lease, etcd_lease: int = 0) -> None:
        """All in one transaction."""
        self._commit(
            [Op.put(SUBNETS + each.key_name, each.to_json(), etcd_lease) for each in leases]
        )

    def put_garbage(self, number: int, value: str = "no lease") -> None:
        self._commit([Op.put(SUBNETS + "10.5.%d.0-24" % number, value)])

    def delete_lease(self, *leases: Lease) -> None:
        self._commit([Op.delete(SUBNETS + each.key_name) for each in leases])

    def put_config(self, text: str) -> None:
        self._commit([Op.put(PREFIX + "/config", text)])

    def delete_config(self) -> None:
        self._commit([Op.delete(PREFIX + "/config")])

    def lease_of(self, number: int) -> str:
        """What stands there; empty if nothing does."""
        found = self._states[-1].get(SUBNETS + "10.5.%d.0-24" % number)
        return found.value.decode() if found else ""

    def expire(self) -> None:
        """All etcd leases run out."""
        for number in list(self.ttls):
            self.lease_revoke(number)

    # What EtcdClient has, as far as the core uses it.

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

    def get(self, key: str, *, revision: int | None = None) -> Range:
        self._answer()
        found = self._at(revision).get(key)
        return Range(self.revision, (found,) if found else (), int(bool(found)), self.cluster)

    def range_prefix(self, prefix: str, *, revision: int | None = None) -> Range:
        self._answer()
        self.before_listing()
        there = self._at(revision)
        kvs = tuple(there[key] for key in sorted(there) if key.startswith(prefix))
        return Range(revision or self.revision, kvs, len(kvs), self.cluster)

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        self._answer()
        if any(each.kind != "range" for each in success):
            self.before_write()
        succeeded = all(map(self._holds, compares))
        branch = success if succeeded else failure
        ranges = [self.get(each.key) for each in branch if each.kind == "range"]
        writes = [each for each in branch if each.kind != "range"]
        if writes:
            self._commit(writes)
        return TxnResult(succeeded, self.revision, tuple(ranges), self.cluster)

    def lease_grant(self, ttl: int) -> etcd.Lease:
        number = next(self._numbers)
        self.ttls[number] = ttl
        return etcd.Lease(number, ttl, ttl)

    def lease_keepalive(self, number: int) -> int:
        self._answer()
        if number not in self.ttls:
            raise EtcdLeaseNotFound("etcd has no such lease")
        return self.ttls[number]

    def lease_time_to_live(self, number: int) -> etcd.Lease:
        ttl = self.lease_keepalive(number)
        return etcd.Lease(number, ttl, ttl)

    def lease_revoke(self, number: int) -> bool:
        gone = [key for key, each in self._states[-1].items() if each.lease == number]
        if gone:
            self._commit([Op.delete(key) for key in gone])
        return self.ttls.pop(number, None) is not None

    def watch(self, prefix: str, start_revision: int) -> FakeWatch:
        self._answer()
        if start_revision <= self.compacted:
            raise EtcdCompacted("revision %d is compacted" % start_revision, self.compacted)
        watch = FakeWatch(self, prefix, start_revision)
        self.watches.append(watch)
        return watch

    def pulse(self, _endpoint: str, _key: str) -> FakePulse:
        return FakePulse(self, self._clock)

    def _answer(self) -> None:
        if self.away:
            raise EtcdUnreachable("etcd cannot be reached")

    def _at(self, revision: int | None) -> dict[str, KeyValue]:
        if revision is None:
            return self._states[-1]
        if revision < self.compacted:
            raise EtcdCompacted("revision %d is compacted" % revision, self.compacted)
        return self._states[revision]

    def _holds(self, compare: Compare) -> bool:
        found = self._states[-1].get(compare.key)
        if compare.target == "MOD":
            return (found.mod_revision if found else 0) == compare.operand
        assert compare.target == "VALUE"
        return bool(found) and found.value == compare.operand

    def _commit(self, operations: Iterable[Op]) -> None:
        revision = self.revision + 1
        there, events = dict(self._states[-1]), []
        for each in operations:
            before = there.get(each.key)
            if each.kind == "put":
                created = before.create_revision if before else revision
                kv = KeyValue(each.key, each.value, created, revision, 1, each.lease)
                there[each.key] = kv
                events.append(Event("put", kv))
            elif before:
                del there[each.key]
                events.append(Event("delete", KeyValue(each.key, b"", 0, revision, 0, 0)))
        if events:
            self._states.append(there)
            self._events.append(tuple(events))


class FakeWatch:
    """Tells each revision once. ``end`` is the error that it ends with."""

    endpoint = FakeEtcd.url
    ready = False

    def __init__(self, server: FakeEtcd, prefix: str, start: int) -> None:
        self._server = server
        self._prefix = prefix
        self._told = start - 1
        self.revision = server.revision
        self.cluster = server.cluster
        self.end: etcd.EtcdError | None = None
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

    def __init__(self, server: FakeEtcd, clock: Clock) -> None:
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
