# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client and members that die, hang, lose their quorum, or are cut off; on a real etcd."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)

from tests.integration.etcd_server import EtcdServers
from tests.lab.waiting import PATIENCE, wait


@pytest.fixture(scope="module")
def three_members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    with EtcdServers(tmp_path_factory.mktemp("cluster"), members=3) as servers:
        yield servers


@pytest.fixture
def cluster(three_members: EtcdServers) -> EtcdServers:
    """All three members up, whatever the test before did."""
    three_members.start()
    return three_members


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An endpoint that does not even answer a connection: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


def test_a_killed_member_is_replaced_by_the_next(cluster: EtcdServers) -> None:
    # Not the leader: what is forwarded to a leader that just died may be lost, and times out.
    leader = cluster.leader()
    follower, other = (member for member in cluster.members if member is not leader)
    with WatchingClient([follower.url, other.url, leader.url], in_order=True) as client:
        client.put("/a", b"1")
        assert client.endpoints[0] == follower.url
        follower.kill()
        # Idle connections are found dead before anything is sent, so even a write goes on.
        client.put("/a", b"2")
        assert client.get("/a").kvs[0].value == b"2"
        assert client.endpoints[0] == other.url
        # It stays with the one that works.
        client.get("/a")
        assert client.endpoints[0] == other.url


def test_a_killed_leader_is_waited_out(cluster: EtcdServers) -> None:
    with WatchingClient(cluster.urls, timeout=10) as client:
        client.put("/a", b"1")
        cluster.leader().kill()
        assert client.get("/a").kvs[0].value == b"1"
        client.put("/a", b"2")
        assert client.get("/a").kvs[0].version >= 2


def test_without_quorum_the_error_says_so(cluster: EtcdServers) -> None:
    survivor = cluster.urls[2]
    with WatchingClient(cluster.urls, timeout=1) as client:
        revision = client.put("/a", b"1")
        watch = WatchingClient([survivor]).watch("/a", revision + 1)
        cluster.members[0].kill()
        cluster.members[1].kill()

        # The survivor ends its watches, so that nobody waits there for ever.
        with pytest.raises(etcd.EtcdNoQuorum, match="most members"):
            watch.read(10)

        for use in (
            lambda: client.get("/a"),
            lambda: client.range_prefix("/a"),
            lambda: client.put("/a", b"2"),
            lambda: client.txn([], [Op.delete("/a")]),
            lambda: client.lease_grant(60),
            lambda: client.watch("/a"),
        ):
            began = time.monotonic()
            with pytest.raises(etcd.EtcdNoQuorum, match=f"{survivor}: this member has no") as got:
                use()
            assert time.monotonic() - began < PATIENCE
            # It was refused before it was proposed.
            assert not got.value.maybe_applied
            assert f"{cluster.urls[0]}: connection refused" in str(got.value)

        assert client.status().leader == 0
        assert client.get("/a", serializable=True).kvs[0].value == b"1"
        cluster.start()
        assert client.get("/a").kvs[0].mod_revision == revision


def test_no_quorum_is_found_even_while_the_member_does_not_know_it_yet(
    cluster: EtcdServers,
) -> None:
    leader = cluster.leader()
    with WatchingClient([leader.url], timeout=3) as client:
        client.put("/a", b"1")
        for member in cluster.members:
            if member is not leader:
                member.kill()
        # The leader still believes in itself: it proposes the write, and then steps down.
        with pytest.raises(etcd.EtcdNoQuorum) as caught:
            client.put("/a", b"2")
        assert caught.value.maybe_applied
        assert "read again" in str(caught.value)


def test_a_write_that_hangs_is_not_repeated_at_the_next(cluster: EtcdServers) -> None:
    hanging = cluster.members[0]
    with (
        WatchingClient(cluster.urls, timeout=1, in_order=True) as client,
        WatchingClient(cluster.urls[1:], timeout=10, in_order=True) as other,
    ):
        before = client.put("/once", b"before")
        hanging.pause()
        try:
            with pytest.raises(etcd.EtcdTimeout) as caught:
                client.put("/once", b"after")
            assert caught.value.maybe_applied
            assert hanging.url in str(caught.value)
            assert cluster.urls[1] not in str(caught.value)
            assert other.get("/once").kvs[0].mod_revision == before
            # A read does go on at the next.
            assert client.get("/once").kvs[0].value == b"before"
        finally:
            hanging.resume()
        assert other.get("/once").kvs[0].version <= 2


def test_a_write_that_may_have_been_applied_can_turn_out_applied(cluster: EtcdServers) -> None:
    leader = cluster.leader()
    killed, hanging = (member for member in cluster.members if member is not leader)
    with WatchingClient([leader.url], timeout=1) as client:
        client.put("/late", b"before")
        killed.kill()
        hanging.pause()
        try:
            with pytest.raises(etcd.EtcdError) as caught:
                client.put("/late", b"after")
            assert caught.value.maybe_applied
        finally:
            hanging.resume()
        # The leader has it in its log, so it alone can win the next election, and commits it.
        with WatchingClient([leader.url], timeout=PATIENCE) as patient:
            wait(lambda: patient.get("/late").kvs[0].value == b"after", "the late value")
            assert patient.get("/late").kvs[0].version == 2


def test_a_hanging_endpoint_costs_a_read_one_timeout(cluster: EtcdServers, silent: str) -> None:
    with WatchingClient([silent, *cluster.urls], timeout=1, in_order=True) as client:
        began = time.monotonic()
        client.get("/a")
        # One for the answer, one for asking why there was none.
        assert 0.9 < time.monotonic() - began < PATIENCE
        assert client.endpoints[0] == cluster.urls[0]
    with (
        WatchingClient([silent], timeout=1) as client,
        pytest.raises(etcd.EtcdTimeout, match=f"{silent}: no answer in time"),
    ):
        client.get("/a")


def test_an_endpoint_that_takes_no_connection_costs_one_timeout(
    cluster: EtcdServers, black_hole: str
) -> None:
    with WatchingClient([black_hole, *cluster.urls], timeout=1, in_order=True) as client:
        began = time.monotonic()
        # It cannot have got there, so this write may go to the next.
        client.put("/a", b"x")
        assert 0.9 < time.monotonic() - began < PATIENCE
    with (
        WatchingClient([black_hole], timeout=1) as client,
        pytest.raises(etcd.EtcdUnreachable, match="nobody answers the connection in time"),
    ):
        client.put("/a", b"x")


def test_a_watch_goes_to_a_member_that_works(cluster: EtcdServers, silent: str) -> None:
    cluster.members[0].kill()
    with (
        WatchingClient(
            [cluster.urls[0], silent, *cluster.urls[1:]], timeout=1, in_order=True
        ) as client,
        client.watch("/a") as watch,
    ):
        assert watch.endpoint == cluster.urls[1]
        client.put("/a", b"seen")
        response = watch.read(5)
        assert response is not None
        assert response.events[0].kv.value == b"seen"


def test_a_restart_between_two_calls_is_not_noticed(tmp_path: Path) -> None:
    with EtcdServers(tmp_path) as servers, WatchingClient(servers.urls) as client:
        client.put("/a", b"1")
        servers.members[0].kill()
        servers.start()
        client.put("/a", b"2")
        assert client.get("/a").kvs[0].version == 2
