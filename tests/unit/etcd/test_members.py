# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client and peers that break off, stall, or are not etcd.

The peers are real sockets that play a part. A real etcd's own failures: tests/integration.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.http import Answer
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)

Connect = Callable[..., WatchingClient]


class Peer:
    """A server that plays one part for each connection that it gets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.thread: threading.Thread | None = None

    def play(self, *parts: list[bytes]) -> None:
        """For each connection, the answers to give; after them it is closed."""

        def run() -> None:
            # close() ends the wait for connections that did not come.
            with contextlib.suppress(OSError):
                for answers in parts:
                    connection, _address = self.listener.accept()
                    self._answer(connection, answers)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def _answer(self, connection: socket.socket, answers: list[bytes]) -> None:
        # The client may break off first.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            for answer in answers:
                self.requests.append(connection.recv(65536))
                connection.sendall(answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        if self.thread is not None:
            self.thread.join(15)
            assert not self.thread.is_alive()
        self.listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    try:
        yield peer
    finally:
        peer.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """WatchingClient, closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect(*urls: str, **options: Any) -> WatchingClient:
            return stack.enter_context(WatchingClient(urls, in_order=True, **options))

        yield connect


def _answer(status: int = 200, **fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


DONE = _answer(header={"revision": "7"})


def test_a_connection_stays_open_for_the_next_call(peer: Peer, connect: Connect) -> None:
    peer.play([DONE, DONE, DONE])
    client = connect(peer.url)
    assert [client.put("/a", b""), client.get("/a").revision, client.put("/a", b"")] == [7, 7, 7]


def test_a_read_over_a_connection_that_closes_is_repeated(peer: Peer, connect: Connect) -> None:
    # The second request gets through, and then the connection ends without an answer.
    peer.play([DONE, b""], [DONE])
    client = connect(peer.url)
    client.put("/a", b"")
    assert client.get("/a").revision == 7
    assert len(peer.requests) == 3


def test_a_write_over_a_connection_that_closes_is_not_repeated(
    peer: Peer, connect: Connect
) -> None:
    other = Peer()
    try:
        peer.play([DONE, b""])
        client = connect(peer.url, other.url)
        client.put("/a", b"")
        with pytest.raises(etcd.EtcdUnreachable, match="read again") as caught:
            client.put("/a", b"")
        assert caught.value.maybe_applied
        assert len(peer.requests) == 2
        assert other.requests == []
    finally:
        other.close()


@pytest.mark.parametrize(
    ("answer", "applied"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", True),
        (_answer(503, code=14, message="etcdserver: request timed out"), True),
        (_answer(500, code=2, message="etcdserver: something new"), True),
        (_answer(502, gateway="is confused"), True),
        (_answer(503, code=14, message="etcdserver: no leader"), False),
        (_answer(503, code=14, message="connection error: Error while dialing"), False),
        (_answer(400, code=3, message="etcdserver: request is too large"), False),
        (_answer(403, code=7, message="etcdserver: permission denied"), False),
        (_answer(429, code=8, message="etcdserver: mvcc: database space exceeded"), False),
        (_answer(404), False),
    ],
)
def test_whether_a_write_may_have_been_applied(
    peer: Peer, answer: bytes, applied: bool, connect: Connect
) -> None:
    # The second is for the question why it timed out, or for the second round without leader.
    peer.play([answer], [answer])
    client = connect(peer.url, timeout=0.1)
    with pytest.raises(etcd.EtcdError) as caught:
        client.put("/a", b"")
    assert caught.value.maybe_applied is applied
    assert ("read again" in str(caught.value)) is applied


@pytest.mark.parametrize(
    "answer",
    [
        _answer(200),
        _answer(200, header=None),
        _answer(200, header={"revision": "many"}),
        _answer(200, header={}, kvs=17),
        _answer(200, header={}, kvs=[{}]),
        _answer(200, header={}, kvs=[{"key": "a"}]),
        _answer(200, header={}, kvs=["a"]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\xfd\xfc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
    ],
)
def test_an_answer_that_is_not_etcds_is_an_error_that_names_the_endpoint(
    peer: Peer, answer: bytes, connect: Connect
) -> None:
    peer.play([answer])
    with pytest.raises(etcd.EtcdBadAnswer, match=peer.url):
        connect(peer.url).get("/a")


def test_an_answer_that_trickles_is_cut_off_in_time(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        stop = threading.Event()

        def trickle() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while not stop.wait(0.01):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        port = listener.getsockname()[1]
        try:
            with pytest.raises(etcd.EtcdTimeout):
                connect(f"http://127.0.0.1:{port}", timeout=0.3).get("/a")
        finally:
            stop.set()
            thread.join()


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    peer.play([_answer(header={"revision": "1"})], [_answer(header={"revision": "2"})])
    client = connect(peer.url)

    def interrupted(*_arguments: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Answer, "feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.get("/a")
    assert client.get("/a").revision == 2


def _events(*revisions: int) -> list[dict[str, Any]]:
    return [{"kv": {"key": "YQ==", "mod_revision": str(revision)}} for revision in revisions]


def _stream(*results: dict[str, Any], end: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for result in results:
        line = json.dumps({"result": {"header": {"revision": "9"}, **result}}).encode() + b"\n"
        head += b"%x\r\n%s\r\n" % (len(line), line)
    return head + end


def test_what_comes_before_the_end_of_a_watch_is_read_before_its_error(
    peer: Peer, connect: Connect
) -> None:
    cancelled = {"canceled": True, "compact_revision": "5"}
    peer.play([_stream({"created": True}, {"events": _events(3)}, cancelled)])
    watch = connect(peer.url).watch("a", 1)
    response = watch.read(5)
    assert response is not None
    assert response.revision == 3
    for _ in range(2):
        with pytest.raises(etcd.EtcdCompacted) as caught:
            watch.read(5)
        assert caught.value.compact_revision == 5


def test_fragments_are_one_response(peer: Peer, connect: Connect) -> None:
    parts = [{"fragment": True, "events": _events(3, 3)}, {"events": _events(3, 4)}]
    peer.play([_stream({"created": True}, *parts)])
    watch = connect(peer.url).watch("a", 1)
    response = watch.read(5)
    assert response is not None
    assert [each.kv.mod_revision for each in response.events] == [3, 3, 3, 4]
    with pytest.raises(etcd.EtcdUnreachable):
        watch.read(5)


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (_chunk(b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}'), "EtcdNoQuorum"),
        (_chunk(b'{"error":{"code":14,"message":"etcdserver: no leader"}}'), "EtcdNoQuorum"),
        (_chunk(b'{"error":"odd"}'), "EtcdBadAnswer"),
        (_chunk(b'{"result":{"header":{},"events":[{}]}}\n'), "EtcdBadAnswer"),
        (_chunk(b'{"result":{"header":{},"canceled":true}}\n'), "EtcdRequestError"),
        (_chunk(b"not JSON\n"), "EtcdBadAnswer"),
        (b"0\r\n\r\n", "EtcdUnreachable"),
        (b"", "EtcdUnreachable"),
    ],
)
def test_why_a_watch_ended(peer: Peer, end: bytes, error: str, connect: Connect) -> None:
    peer.play([_stream({"created": True}, {"events": _events(3)}, end=end)])
    with connect(peer.url).watch("a", 1) as watch:
        assert watch.read(5) is not None
        with pytest.raises(getattr(etcd, error), match=peer.url):
            watch.read(5)


def test_a_token_and_a_password_show_nowhere(peer: Peer, connect: Connect) -> None:
    token, password = "t0ken.of.etcd", "s3cret"
    refused = _answer(403, code=7, message="etcdserver: permission denied")
    peer.play([_answer(header={}, token=token), refused, b"HTTP/1.1 200 OK\r\n\r\n" + b"{"])
    client = connect(peer.url, username="flat", password=password)
    texts = []
    for use in (lambda: client.get("/a"), lambda: client.put("/a", b"")):
        with pytest.raises(etcd.EtcdError) as caught:
            use()
        trace = traceback.TracebackException(caught.type, caught.value, caught.tb)
        texts += ["".join(trace.format()), repr(caught.value), repr(client), str(client)]
        cause: BaseException | None = caught.value
        while cause is not None:
            texts.append(repr(vars(cause)))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    assert all(token not in text and password not in text for text in texts)
    assert b"Authorization: " + token.encode() in peer.requests[1]
    assert b"Authorization" not in peer.requests[0]
