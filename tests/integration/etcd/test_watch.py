# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches of the etcd client, on a real etcd."""

from __future__ import annotations

import collections
import json
import select
import threading
import time
from collections.abc import Iterator

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    Watch,
    WatchingClient,
)

from tests.integration.etcd_server import EtcdServers
from tests.lab.waiting import PATIENCE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    arguments = ["--experimental-watch-progress-notify-interval=1s"]
    with EtcdServers(tmp_path_factory.mktemp("etcd"), arguments=arguments) as servers:
        yield servers


@pytest.fixture
def client(server: EtcdServers) -> Iterator[WatchingClient]:
    with WatchingClient(server.urls) as client:
        client.delete_prefix("")
        yield client


def events(watch: Watch, count: int) -> list[etcd.Event]:
    """The next events, however they are spread over responses."""
    found: list[etcd.Event] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        response = watch.read(deadline - time.monotonic())
        assert response is not None, f"{len(found)} of {count} events"
        found += response.events
    return found


def test_changes_come_in_order_and_those_of_other_keys_do_not(client: WatchingClient) -> None:
    with client.watch("/w/") as watch:
        revisions = [client.put("/w/1", b"a")]
        client.put("/other", b"x")
        revisions.append(client.put("/w/1", b"b"))
        client.delete("/w/1")
        found = events(watch, 3)
    assert [(each.kind, each.kv.key, each.kv.value) for each in found] == [
        ("put", "/w/1", b"a"),
        ("put", "/w/1", b"b"),
        ("delete", "/w/1", b""),
    ]
    assert [each.kv.mod_revision for each in found] == [*revisions, revisions[-1] + 1]


def test_a_watch_from_a_past_revision_catches_up_and_goes_on(client: WatchingClient) -> None:
    first = client.put("/w/0", b"")
    for index in range(1, 2500):
        client.put(f"/w/{index}", b"")
    with client.watch("/w/", first) as watch:
        client.put("/w/2500", b"")
        found = events(watch, 2501)
    assert [each.kv.key for each in found] == [f"/w/{index}" for index in range(2501)]


def test_revision_of_a_response_is_where_to_go_on_from(client: WatchingClient) -> None:
    first = client.put("/w/0", b"")
    for index in range(1, 2500):
        client.put(f"/w/{index}", b"")
    found: list[str] = []
    revision = first - 1
    # A new watch for each response: nothing is missed and nothing comes twice.
    while len(found) < 2500:
        with client.watch("/w/", revision + 1, progress=False) as watch:
            response = watch.read(5)
        assert response is not None
        found += [each.kv.key for each in response.events]
        revision = response.revision
    assert found == [f"/w/{index}" for index in range(2500)]


def test_every_answer_tells_the_cluster(server: EtcdServers, client: WatchingClient) -> None:
    told = json.loads(server.ctl("get", "x", "-w", "json"))["header"]["cluster_id"]
    with client.watch("/cluster/") as watch:
        client.put("/cluster/a", b"")
        response = watch.read(10)
        assert response is not None
        done = client.txn([], [Op.get("/cluster/a")])
        found = [client.get("/cluster/a"), client.range_prefix("/cluster/"), done, response, watch]
        assert [each.cluster for each in found] == [told] * 5


def test_the_changes_of_a_transaction_come_in_one_response(client: WatchingClient) -> None:
    with client.watch("/w/") as watch:
        done = client.txn([], [Op.put(f"/w/{index:02}", b"") for index in range(50)])
        response = watch.read(5)
        assert response is not None
        assert response.revision == done.revision
        assert [each.kv.key for each in response.events] == [f"/w/{i:02}" for i in range(50)]

        assert client.delete_prefix("/w/") == 50
        response = watch.read(5)
        assert response is not None
        assert {each.kind for each in response.events} == {"delete"}
        assert len(response.events) == 50


def test_a_hundred_keys_deleted_at_once_are_a_hundred_events(client: WatchingClient) -> None:
    client.txn([], [Op.put(f"/w/{index:03}", b"") for index in range(100)])
    with client.watch("/w/") as watch:
        client.delete_prefix("/w/")
        response = watch.read(5)
    assert response is not None
    assert [each.kv.key for each in response.events] == [f"/w/{i:03}" for i in range(100)]


def test_a_response_that_etcd_splits_is_put_together(client: WatchingClient) -> None:
    first = client.put("/w/0", b"0" * 1_400_000)
    for index in range(1, 8):
        client.put(f"/w/{index}", bytes([48 + index]) * 1_400_000)
    with client.watch("/w/", first) as watch:
        response = watch.read(10)
    assert response is not None
    assert [each.kv.value[:1] for each in response.events] == [b"%d" % i for i in range(8)]
    assert all(len(each.kv.value) == 1_400_000 for each in response.events)


def test_the_keys_of_an_expired_lease_are_deleted_events(client: WatchingClient) -> None:
    lease = client.lease_grant(60)
    client.put("/w/1", b"", lease=lease.id)
    with client.watch("/w/") as watch:
        client.lease_revoke(lease.id)
        (event,) = events(watch, 1)
    assert (event.kind, event.kv.key) == ("delete", "/w/1")


def test_a_compacted_start_is_an_error_that_tells_the_revision(
    server: EtcdServers, client: WatchingClient
) -> None:
    old = client.put("/w/1", b"a")
    now = client.put("/w/1", b"b")
    server.ctl("compact", str(now))
    with (
        client.watch("/w/", old) as watch,
        pytest.raises(etcd.EtcdCompacted, match="list again") as caught,
    ):
        watch.read(5)
    assert caught.value.compact_revision == now
    with client.watch("/w/", now) as watch:
        assert events(watch, 1)[0].kv.value == b"b"


def test_a_quiet_watch_learns_of_progress(client: WatchingClient) -> None:
    with client.watch("/w/") as watch:
        revision = client.put("/other", b"x")
        deadline = time.monotonic() + PATIENCE
        while True:
            response = watch.read(PATIENCE)
            assert response is not None
            assert response.events == ()
            if response.revision >= revision:
                break
            assert time.monotonic() < deadline


def test_read_waits_no_longer_than_told_and_the_watch_goes_on(client: WatchingClient) -> None:
    with client.watch("/w/", progress=False) as watch:
        assert watch.read(0) is None
        began = time.monotonic()
        assert watch.read(0.3) is None
        assert 0.25 < time.monotonic() - began < 2
        client.put("/w/1", b"")
        assert len(events(watch, 1)) == 1


def test_a_watch_can_be_polled_with_other_descriptors(client: WatchingClient) -> None:
    with client.watch("/w/", progress=False) as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        assert poll.poll(100) == []
        for index in range(20):
            client.put(f"/w/{index}", b"")
        found: list[etcd.Event] = []
        while len(found) < 20:
            assert poll.poll(5000)
            while True:
                response = watch.read(0)
                if response is None:
                    break
                found += response.events
        assert len(found) == 20


def test_another_thread_can_end_an_iteration(client: WatchingClient) -> None:
    watch = client.watch("/w/")
    seen: list[etcd.WatchResponse] = []
    began = threading.Event()

    def follow() -> None:
        for response in watch:
            if response.events:
                seen.append(response)
                began.set()

    thread = threading.Thread(target=follow)
    thread.start()
    client.put("/w/1", b"")
    assert began.wait(5)
    watch.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(seen) == 1
    with pytest.raises(etcd.EtcdWatchClosed):
        watch.read(1)
    with pytest.raises(etcd.EtcdWatchClosed):
        watch.fileno()


def test_the_end_of_the_member_ends_the_watch_and_a_new_one_misses_nothing(
    server: EtcdServers, client: WatchingClient
) -> None:
    watch = client.watch("/w/")
    revision = client.put("/w/1", b"")
    assert events(watch, 1)[0].kv.mod_revision == revision
    server.members[0].kill()
    with pytest.raises(etcd.EtcdUnreachable, match=server.urls[0]):
        collections.deque(watch, maxlen=0)
    with pytest.raises(etcd.EtcdUnreachable, match="ended the connection"):
        watch.read(5)
    with pytest.raises(etcd.EtcdUnreachable, match="connection refused"):
        client.watch("/w/", revision + 1)
    server.start()
    client.put("/w/2", b"")
    with client.watch("/w/", revision + 1) as watch:
        assert events(watch, 1)[0].kv.key == "/w/2"


def test_each_event_comes_without_another_behind_it(client: WatchingClient) -> None:
    """Nothing on the way holds one back until there is more to send."""
    count = 0
    arrived = threading.Event()
    with client.watch("/w/", progress=False) as watch:

        def follow() -> None:
            nonlocal count
            for _response in watch:
                count += 1
                arrived.set()

        thread = threading.Thread(target=follow)
        thread.start()
        for _ in range(50):
            client.put("/w/1", b"x" * 200)
            assert arrived.wait(PATIENCE)
            arrived.clear()
        watch.close()
        thread.join(PATIENCE)
    assert count == 50
