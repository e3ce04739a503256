# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools for tests of the lease registry: fleets, processes that race, and etcd's whole history.

etcd keeps every revision, so a watch from the first one tells afterwards, with no event missed,
what flanneld peers would have seen at every moment of a test.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import traceback
import typing as t
from collections.abc import Iterator

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Event
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.acquire import (
    Outcome,
    acquire,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    Registry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.release import release

from tests.lab.waiting import PATIENCE

# Children start at once, as fork makes them: 64 interpreters that start on two cores do not race.
FORK = multiprocessing.get_context("fork")

NO_WISH = Wish()

T = t.TypeVar("T")


def host(number: int, **changes: str) -> Host:
    """The host of this number: an identity, a name and an address of its own."""
    return Host(
        hashlib.md5(b"%d" % number).hexdigest(),
        "host%d" % number,
        "192.0.%d.%d" % (2 + number // 250, 1 + number % 250),
    )._replace(**changes)


class Fleet:
    """A network of its own prefix on an etcd."""

    def __init__(self, urls: list[str], prefix: str, timeout: float = 20.0) -> None:
        self.urls = urls
        self.prefix = prefix
        self.timeout = timeout
        self.client = WatchingClient(urls, timeout=timeout, in_order=True)
        self.store = Registry(self.client, prefix)

    def configure(self, text: str) -> None:
        self.client.put(self.prefix + "/config", text)

    def acquire(
        self, who: Host, wish: Wish = NO_WISH, ttl: int = 0, urls: list[str] | None = None
    ) -> Outcome:
        """As a controller of its own does it: with a client of its own."""
        with WatchingClient(urls or self.urls, timeout=self.timeout, in_order=True) as client:
            return acquire(Registry(client, self.prefix), who, wish, ttl)

    def release(self, who: Host, urls: list[str] | None = None) -> tuple[Lease, ...]:
        with WatchingClient(urls or self.urls, timeout=self.timeout, in_order=True) as client:
            return release(Registry(client, self.prefix), who.host_id)

    def leases(self) -> tuple[Lease, ...]:
        return self.store.snapshot().leases

    def put_lease(self, subnet: str, value: str, ttl: int = 0) -> int:
        """As somebody else would write it; returns the etcd lease."""
        etcd_lease = self.client.lease_grant(ttl).id if ttl else 0
        self.client.put("%s/subnets/%s" % (self.prefix, subnet), value, etcd_lease)
        return etcd_lease

    def keys(self, below: str = "/") -> dict[str, str]:
        """All keys, named from the prefix on, with their values."""
        return {
            entry.key[len(self.prefix) + 1 :]: entry.value.decode()
            for entry in self.client.range_prefix(self.prefix + below).kvs
        }

    def guards(self) -> dict[str, str]:
        return self.keys("/flatnet/")

    def history(self) -> list[list[Event]]:
        """Every event under the prefix since etcd began, those of one revision together."""
        end = self.client.put(self.prefix + "/end of history", b"")
        found: list[list[Event]] = []
        with self.client.watch(self.prefix, 1) as watch:
            while True:
                response = watch.read(10)
                assert response is not None
                for event in response.events:
                    if event.kv.mod_revision == end:
                        self.client.delete(self.prefix + "/end of history")
                        return found
                    if not found or found[-1][0].kv.mod_revision != event.kv.mod_revision:
                        found.append([])
                    found[-1].append(event)


def check_history(fleet: Fleet, foreign: t.Collection[str] = (), moves: bool = False) -> int:
    """What peers rely on held at every revision; returns how many puts of leases there were.

    ``foreign`` are the subnet keys that a test itself wrote. ``moves``: a host may have its old
    lease beside its new one for a moment.
    """
    subnets = fleet.prefix + "/subnets"
    held: dict[str, Lease] = {}
    puts = 0
    for events in fleet.history():
        touched = [event for event in events if event.kv.key.startswith(subnets)]
        assert len(touched) <= 1, "several leases in one transaction: %s" % touched
        for event in touched:
            slash, name = event.kv.key[len(subnets)], event.kv.key[len(subnets) + 1 :]
            assert slash == "/"
            if event.kind == "delete":
                held.pop(name, None)
            elif name not in foreign:
                puts += 1
                held[name] = parse_lease(name, event.kv.value)
                assert held[name].key_name == name
                assert held[name].to_json().encode() == event.kv.value
        if not moves:
            owners = [lease.host_id for lease in held.values()]
            assert len(set(owners)) == len(owners), "a host with two leases: %s" % held
            addresses = [lease.public_ip for lease in held.values()]
            assert len(set(addresses)) == len(addresses), "two leases of one address: %s" % held
    return puts


def race(jobs: t.Sequence[t.Callable[[], T]]) -> list[T | FlatnetError]:
    """Run each job in a process of its own, all from the same moment on.

    Gives what they returned, or the FlatnetError they ended with, in the order of the jobs.
    """
    barrier = FORK.Barrier(len(jobs))

    def run(job: t.Callable[[], T], pipe: t.Any) -> None:
        try:
            barrier.wait(PATIENCE)
            result: t.Any = job()
        except FlatnetError as error:
            result = error
        except Exception:  # noqa: BLE001 - whatever it is, the test's own process tells
            result = traceback.format_exc()
        pipe.send(result)

    started = []
    results: list[t.Any] = []
    try:
        for job in jobs:
            ours, theirs = FORK.Pipe(duplex=False)
            process = FORK.Process(target=run, args=(job, theirs))
            process.start()
            theirs.close()
            started.append((process, ours))
        for _process, pipe in started:
            assert pipe.poll(PATIENCE), "a job hangs"
            result = pipe.recv()
            assert not (isinstance(result, str) and result.startswith("Traceback")), result
            results.append(result)
    finally:
        for process, pipe in started:
            if len(results) < len(jobs):
                process.kill()
            process.join()
            pipe.close()
    return results


@contextlib.contextmanager
def child(job: t.Callable[[], object]) -> Iterator[t.Any]:
    """A process that runs a job until it is done, or killed: its exit code tells which."""
    process = FORK.Process(target=job)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
