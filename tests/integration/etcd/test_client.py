# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client on a real etcd: keys, transactions, leases, and what is not etcd."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    Op,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)

from tests.integration.etcd_server import EtcdServers, free_ports
from tests.lab.waiting import wait


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    with EtcdServers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture
def client(server: EtcdServers) -> Iterator[WatchingClient]:
    with WatchingClient(server.urls) as client:
        client.delete_prefix("")
        yield client


# Keys


def test_what_is_put_is_got_with_its_revisions(client: WatchingClient) -> None:
    first = client.put("/a", b"1")
    second = client.put("/a", "zwei")
    answer = client.get("/a")
    assert answer.revision == second == first + 1
    assert answer.kvs == (etcd.KeyValue("/a", b"zwei", first, second, 2, 0),)
    assert client.get("/a", revision=first).kvs[0].value == b"1"
    assert client.get("/a", serializable=True).kvs == answer.kvs
    assert client.delete("/a") == 1
    assert client.delete("/a") == 0
    assert client.get("/a").kvs == ()


def test_a_key_and_a_value_of_any_bytes_come_back_unharmed(client: WatchingClient) -> None:
    key = "/garbage/" + bytes(range(256)).decode("utf-8", "surrogateescape")
    client.put(key, bytes(range(256)))
    client.put("/garbage/empty", b"")
    kvs = client.range_prefix("/garbage/").kvs
    assert {each.key: each.value for each in kvs} == {
        key: bytes(range(256)),
        "/garbage/empty": b"",
    }


def test_a_prefix_is_exact(client: WatchingClient) -> None:
    for key in ("/p", "/p/", "/p/1", "/p0", "/o/x"):
        client.put(key, b"")
    assert [each.key for each in client.range_prefix("/p/").kvs] == ["/p/", "/p/1"]
    assert client.range_prefix("").count == 5


def _fill(client: WatchingClient, count: int) -> list[str]:
    keys = [f"/many/{index:05}" for index in range(count)]
    for start in range(0, count, 100):
        client.txn([], [Op.put(key, b"x" * 20) for key in keys[start : start + 100]])
    return keys


def test_pages_are_of_one_revision_while_others_write(
    server: EtcdServers, client: WatchingClient
) -> None:
    keys = _fill(client, 3000)
    stop = threading.Event()

    def disturb() -> None:
        # In each round the key that is gone and the key that is new are at opposite ends.
        with WatchingClient(server.urls) as other:
            for index in range(1, 1000):
                if stop.is_set():
                    break
                gone, new = Op.delete(keys[-index]), Op.put(f"/many/0/{index:04}", b"new")
                other.txn([], [gone, new])

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        revisions = set()
        for _ in range(5):
            answer = client.range_prefix("/many/", page=500)
            # Each round moves one key, so any single revision holds 3,000.
            assert len(answer.kvs) == answer.count == 3000
            assert len({each.key for each in answer.kvs}) == 3000
            assert max(each.mod_revision for each in answer.kvs) <= answer.revision
            revisions.add(answer.revision)
    finally:
        stop.set()
        thread.join()
    assert len(revisions) > 1


def test_a_list_begins_anew_when_its_revision_is_compacted_away(
    server: EtcdServers, client: WatchingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(client, 30)
    pages = 0
    ask = client._read

    def compact_after_first_page(*arguments: Any) -> Any:
        nonlocal pages
        pages += 1
        answer = ask(*arguments)
        if pages == 1:
            with WatchingClient(server.urls) as other:
                server.ctl("compact", str(other.put("/many/99999", b"late")))
        return answer

    monkeypatch.setattr(client, "_read", compact_after_first_page)
    answer = client.range_prefix("/many/", page=10)
    assert len(answer.kvs) == answer.count == 31
    # One page of the old revision, one refused, four of the new one.
    assert pages == 6


def test_a_compacted_or_future_revision_is_refused(
    server: EtcdServers, client: WatchingClient
) -> None:
    old = client.put("/a", b"1")
    now = client.put("/a", b"2")
    server.ctl("compact", str(now))
    with pytest.raises(etcd.EtcdCompacted):
        client.get("/a", revision=old)
    with pytest.raises(etcd.EtcdCompacted):
        client.range_prefix("/a", revision=old)
    with pytest.raises(etcd.EtcdRequestError, match="future revision") as caught:
        client.get("/a", revision=now + 100)
    assert caught.value.code == 11
    assert not caught.value.maybe_applied


def test_keys_only_leaves_the_values_out(client: WatchingClient) -> None:
    client.put("/a/1", b"value")
    (kv,) = client.range_prefix("/a/", keys_only=True).kvs
    assert (kv.key, kv.value, kv.version) == ("/a/1", b"", 1)


def test_a_large_answer_is_read_whole(client: WatchingClient) -> None:
    for index in range(6):
        client.put(f"/big/{index}", bytes([index]) * 1_000_000)
    kvs = client.range_prefix("/big/").kvs
    assert [each.value for each in kvs] == [bytes([index]) * 1_000_000 for index in range(6)]


def test_a_request_that_is_too_large_is_refused(client: WatchingClient) -> None:
    with pytest.raises(etcd.EtcdRequestError, match="too large"):
        client.put("/big", b"x" * 2_000_000)


# Transactions


def test_a_transaction_takes_the_branch_of_its_conditions(client: WatchingClient) -> None:
    absent = Compare.create_revision("/t", 0)
    won = client.txn([absent], [Op.put("/t", b"mine")], [Op.get("/t")])
    assert (won.succeeded, won.responses) == (True, (1,))
    lost = client.txn([absent], [Op.put("/t", b"theirs")], [Op.get("/t")])
    assert not lost.succeeded
    assert lost.ranges[0].kvs[0].value == b"mine"
    assert lost.ranges[0].kvs[0].mod_revision == won.revision

    done = client.txn(
        [
            Compare.mod_revision("/t", won.revision),
            Compare.value("/t", b"mine"),
            Compare.version("/t", 1),
            Compare.version("/t", 0, ">"),
            Compare.value("/t", "other", "!="),
        ],
        [Op.delete("/t"), Op.put("/t2", b"x"), Op.get_prefix("/t"), Op.delete_prefix("/none")],
    )
    assert done.succeeded
    assert done.responses[0] == 1
    assert [each.key for each in done.ranges[0].kvs] == ["/t2"]
    assert done.responses[3] == 0
    assert client.get("/t").kvs == ()


def test_a_transaction_that_etcd_refuses_changes_nothing(client: WatchingClient) -> None:
    with pytest.raises(etcd.EtcdRequestError, match="duplicate key") as caught:
        client.txn([], [Op.put("/t", b"1"), Op.put("/t", b"2")])
    assert not caught.value.maybe_applied
    assert client.get("/t").kvs == ()


# Leases


def test_a_lease_is_granted_kept_alive_told_and_revoked(client: WatchingClient) -> None:
    lease = client.lease_grant(60)
    assert lease.ttl == lease.granted_ttl == 60
    client.put("/leased", b"", lease=lease.id)
    client.txn([], [Op.put("/leased/2", b"", lease=lease.id)])
    assert client.get("/leased").kvs[0].lease == lease.id
    assert client.lease_keepalive(lease.id) == 60
    told = client.lease_time_to_live(lease.id, keys=True)
    assert told.granted_ttl == 60
    assert 55 <= told.ttl <= 60
    assert sorted(told.keys) == ["/leased", "/leased/2"]
    assert client.lease_time_to_live(lease.id).keys == ()
    assert client.lease_revoke(lease.id) is True
    assert client.lease_revoke(lease.id) is False
    assert client.range_prefix("/leased").kvs == ()


def test_a_lease_that_is_gone_is_not_found(client: WatchingClient) -> None:
    for use in (
        lambda: client.lease_keepalive(12345),
        lambda: client.lease_time_to_live(12345),
        lambda: client.put("/leased", b"", lease=12345),
        lambda: client.txn([], [Op.put("/leased", b"", lease=12345)]),
    ):
        with pytest.raises(etcd.EtcdLeaseNotFound):
            use()
    assert client.get("/leased").kvs == ()


def test_a_lease_expires_with_its_keys(client: WatchingClient) -> None:
    lease = client.lease_grant(1)
    client.put("/leased", b"", lease=lease.id)
    wait(lambda: not client.get("/leased").kvs, "the end of the lease")
    with pytest.raises(etcd.EtcdLeaseNotFound):
        client.lease_keepalive(lease.id)


# Not etcd


class _Html(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, *_arguments: Any) -> None:
        pass


def test_another_service_on_the_port_is_named(server: EtcdServers) -> None:
    other = http.server.HTTPServer(("127.0.0.1", 0), _Html)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{other.server_port}"
    try:
        with WatchingClient([url]) as client:
            for use in (
                lambda: client.get("/a"),
                lambda: client.put("/a", b""),
                lambda: client.watch("/a"),
                client.status,
            ):
                with pytest.raises(etcd.EtcdBadAnswer, match="not etcd") as caught:
                    use()
                assert url in str(caught.value)
                assert not caught.value.maybe_applied
        with WatchingClient([url, *server.urls], in_order=True) as client:
            client.put("/a", b"went to the next")
            assert client.endpoints[0] == server.urls[0]
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


def test_etcds_peer_port_is_not_etcds_client_port(server: EtcdServers) -> None:
    with (
        WatchingClient([server.members[0].peer_url]) as client,
        pytest.raises(etcd.EtcdBadAnswer, match="HTTP 404"),
    ):
        client.get("/a")


def test_a_service_that_does_not_speak_http_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        port = listener.getsockname()[1]
        with (
            WatchingClient([f"http://127.0.0.1:{port}"]) as client,
            pytest.raises(etcd.EtcdBadAnswer, match="does not speak HTTP"),
        ):
            client.put("/a", b"")
        thread.join()


def test_unreachable_endpoints_are_all_listed_with_their_reasons() -> None:
    urls = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    with (
        WatchingClient([*urls, "http://no-such-host.invalid:2379"]) as client,
        pytest.raises(etcd.EtcdUnreachable) as caught,
    ):
        client.put("/a", b"")
    assert not caught.value.maybe_applied
    for url in urls:
        assert f"{url}: connection refused" in str(caught.value)
    assert "no-such-host.invalid:2379: the name does not resolve" in str(caught.value)


def test_proxies_of_the_environment_are_not_used(
    client: WatchingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client.close()
    assert client.put("/a", b"") > 0
