# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client without etcd: what it encodes, what it refuses, and peers that break off.

What a real etcd can be made to do is tested on one, in tests/integration/test_etcd*.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils import etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._etcd.http import Answer, BadHttp
from ansible_collections.flatnet.overlay.plugins.module_utils._etcd.options import parse_endpoint
from ansible_collections.flatnet.overlay.plugins.module_utils._etcd.values import (
    decode_key,
    encode,
    prefix_range,
)
from ansible_collections.flatnet.overlay.plugins.module_utils.etcd import Compare, EtcdClient, Op
from hypothesis import given
from hypothesis import strategies as st

keys = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


# Values


@given(st.binary(max_size=30))
def test_any_bytes_are_a_key_and_come_back(raw: bytes) -> None:
    key = decode_key(base64.b64encode(raw).decode())
    assert base64.b64decode(encode(key)) == raw
    assert encode(raw) == encode(key)


@given(prefix=keys, key=st.binary(min_size=1, max_size=12))
def test_a_prefix_covers_the_keys_that_start_with_it_and_no_others(prefix: str, key: bytes) -> None:
    asked = prefix_range(prefix)
    low, high = base64.b64decode(asked["key"]), base64.b64decode(asked["range_end"])
    # In etcd an end of "\0" means that there is none.
    covered = low <= key and (high == b"\0" or key < high)
    # etcd has no empty key, so "\0" is the lowest.
    assert covered == key.startswith(prefix.encode("utf-8", "surrogateescape"))


def test_zero_fields_may_be_missing_and_numbers_are_strings() -> None:
    header = {"header": {"revision": "9007199254740993"}}
    assert etcd.Range.parse(header) == etcd.Range(9007199254740993, (), 0)
    kv = etcd.KeyValue.parse({"key": "YQ=="})
    assert kv == etcd.KeyValue("a", b"", 0, 0, 0, 0)
    assert etcd.TxnResult.parse(header) == etcd.TxnResult(False, 9007199254740993, ())


def test_a_condition_and_an_operation_are_what_etcd_expects() -> None:
    assert Compare.create_revision("a", 0).to_json() == {
        "key": "YQ==",
        "target": "CREATE",
        "result": "EQUAL",
        "create_revision": "0",
    }
    assert Compare.value("a", "b", "!=").to_json() == {
        "key": "YQ==",
        "target": "VALUE",
        "result": "NOT_EQUAL",
        "value": "Yg==",
    }
    assert Op.put("a", b"b", lease=7).to_json() == {
        "request_put": {"key": "YQ==", "value": "Yg==", "lease": "7"}
    }
    assert Op.get_prefix("a").to_json() == {"request_range": {"key": "YQ==", "range_end": "Yg=="}}


# Options


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(["127.0.0.1", "etcd-1.example.com", "[::1]", "[fd00:10::2]", "a_b"]),
    port=st.integers(1, 65535),
    slash=st.sampled_from(["", "/"]),
)
def test_an_endpoint_is_taken_apart(scheme: str, host: str, port: int, slash: str) -> None:
    endpoint = parse_endpoint(f"{scheme}://{host}:{port}{slash}")
    assert endpoint == (f"{scheme}://{host}:{port}", scheme == "https", host.strip("[]"), port)


@given(st.one_of(st.text(max_size=30), st.text(max_size=20).map(lambda text: f"http://{text}")))
def test_any_other_text_is_refused_or_a_host_and_port(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except etcd.EtcdInvalidOption:
        return
    assert endpoint.host
    assert 0 < endpoint.port < 65536


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "127.0.0.1:2379",
        "etcd.example.com",
        "ftp://127.0.0.1:2379",
        "http://127.0.0.1",
        "http://:2379",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:etcd",
        "http://127.0.0.1:2379/v3",
        "http://127.0.0.1:2379?x",
        "http://127.0.0.1:2379?",
        "http://127.0.0.1:2379#x",
        "http://[::1:2379",
        "http://a b:2379",
        "http://a\r\nX-Evil:2379",
        "http://" + "a" * 70 + ":2379",
        "http://a..b:2379",
        17,
        None,
    ],
)
def test_a_bad_endpoint_is_named(bad: object) -> None:
    with pytest.raises(etcd.EtcdInvalidOption) as caught:
        EtcdClient(["http://127.0.0.1:2379", bad])  # type: ignore[list-item]
    assert repr(bad) in str(caught.value)
    assert caught.value.option == "etcd_endpoints"


def test_a_password_in_an_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(etcd.EtcdInvalidOption, match="options of their own") as caught:
        EtcdClient(["http://root:s3cret@127.0.0.1:2379"])
    shown = "".join(traceback.format_exception(caught.type, caught.value, None))
    assert "s3cret" not in shown


def test_the_same_endpoint_twice_counts_once() -> None:
    client = EtcdClient(["http://127.0.0.1:2379", "http://127.0.0.1:2379/"])
    assert client.endpoints == ("http://127.0.0.1:2379",)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"endpoints": []}, "etcd_endpoints"),
        ({"endpoints": "http://127.0.0.1:2379"}, "etcd_endpoints"),
        ({"ca_file": "/ca.pem"}, "etcd_ca_file"),
        ({"endpoints": ["https://a:1", "http://b:1"], "ca_file": "/ca"}, "etcd_ca_file"),
        ({"endpoints": ["https://a:1"], "cert_file": "/c"}, "etcd_key_file"),
        ({"endpoints": ["https://a:1"], "key_file": "/k"}, "etcd_cert_file"),
        ({"username": "root"}, "etcd_password"),
        ({"password": "s3cret"}, "etcd_username"),
        ({"timeout": 0}, "etcd_timeout"),
        ({"timeout": -1}, "etcd_timeout"),
        ({"timeout": "5"}, "etcd_timeout"),
        ({"timeout": True}, "etcd_timeout"),
        ({"timeout": float("nan")}, "etcd_timeout"),
        ({"timeout": float("inf")}, "etcd_timeout"),
    ],
)
def test_contradictory_and_wrong_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(etcd.EtcdInvalidOption, match=named) as caught:
        EtcdClient(**{"endpoints": ["http://127.0.0.1:2379"], **options})
    assert caught.value.option == named
    assert "s3cret" not in str(caught.value)


def test_nothing_of_ansible_is_imported() -> None:
    code = (
        "import sys, ansible_collections.flatnet.overlay.plugins.module_utils.etcd;"
        "print([name for name in sys.modules if name.split('.')[0] == 'ansible'])"
    )

    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


# HTTP


def _chunks(body: bytes, sizes: list[int]) -> bytes:
    raw = b""
    for size in sizes:
        part, body = body[:size], body[size:]
        if part:
            raw += b"%X;ext=1\r\n%s\r\n" % (len(part), part)
    if body:
        raw += b"%x\r\n%s\r\n" % (len(body), body)
    return raw + b"0\r\nGrpc-Trailer: x\r\nAnother: y\r\n\r\n"


def _feed(raw: bytes, cuts: list[int]) -> tuple[Answer, bytes]:
    answer, body = Answer(), b""
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for start, end in zip(edges, edges[1:]):
        body += answer.feed(raw[start:end])
    return answer, body


cuts = st.lists(st.integers(0, 500), max_size=20)


@given(st.binary(max_size=200), st.lists(st.integers(1, 50), max_size=8), cuts)
def test_a_chunked_body_is_the_same_however_it_arrives(
    body: bytes, sizes: list[int], cuts: list[int]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer, got = _feed(head + _chunks(body, sizes), cuts)
    assert got == body
    assert answer.complete
    assert answer.keep_alive


@given(st.binary(max_size=200), cuts, st.booleans())
def test_a_body_with_a_length_or_until_the_end(body: bytes, cuts: list[int], known: bool) -> None:
    length = b"Content-Length: %d\r\n" % len(body) if known else b""
    answer, got = _feed(b"HTTP/1.1 404 Not Found\r\n" + length + b"\r\n" + body, cuts)
    assert (answer.status, got) == (404, body)
    assert answer.complete == known
    answer.feed(b"")
    assert answer.complete
    assert answer.ended
    assert answer.keep_alive == known


@given(st.binary(min_size=1, max_size=60), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
def test_garbage_is_refused_or_waited_for(garbage: bytes, start: bytes) -> None:
    answer = Answer()
    try:
        answer.feed(start + garbage)
        answer.feed(b"")
    except BadHttp:
        pass
    else:
        assert answer.ended


# Peers that break off


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
            for answers in parts:
                connection, _address = self.listener.accept()
                # The client may break off first.
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    for answer in answers:
                        self.requests.append(connection.recv(65536))
                        connection.sendall(answer)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.listener.close()
        if self.thread is not None:
            self.thread.join(15)
            assert not self.thread.is_alive()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    try:
        yield peer
    finally:
        peer.close()


def _answer(status: int = 200, **fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


DONE = _answer(header={"revision": "7"})


def test_a_connection_stays_open_for_the_next_call(peer: Peer) -> None:
    peer.play([DONE, DONE, DONE])
    client = EtcdClient([peer.url])
    assert [client.put("/a", b""), client.get("/a").revision, client.put("/a", b"")] == [7, 7, 7]


def test_a_read_over_a_connection_that_closes_is_repeated(peer: Peer) -> None:
    # The second request gets through, and then the connection ends without an answer.
    peer.play([DONE, b""], [DONE])
    client = EtcdClient([peer.url])
    client.put("/a", b"")
    assert client.get("/a").revision == 7
    assert len(peer.requests) == 3


def test_a_write_over_a_connection_that_closes_is_not_repeated(peer: Peer) -> None:
    other = Peer()
    try:
        peer.play([DONE, b""])
        client = EtcdClient([peer.url, other.url])
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
def test_whether_a_write_may_have_been_applied(peer: Peer, answer: bytes, applied: bool) -> None:
    # The second is for the question why it timed out, or for the second round without leader.
    peer.play([answer], [answer])
    client = EtcdClient([peer.url], timeout=0.1)
    with pytest.raises(etcd.EtcdError) as caught:
        client.put("/a", b"")
    assert caught.value.maybe_applied is applied
    assert ("read again" in str(caught.value)) is applied
    # Whoever is still waited for.
    for _ in range(2):
        try:
            socket.create_connection(peer.listener.getsockname()).close()
        except OSError:
            break


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
    peer: Peer, answer: bytes
) -> None:
    peer.play([answer])
    with pytest.raises(etcd.EtcdBadAnswer, match=peer.url):
        EtcdClient([peer.url]).get("/a")


def test_an_answer_that_trickles_is_cut_off_in_time() -> None:
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
                EtcdClient([f"http://127.0.0.1:{port}"], timeout=0.3).get("/a")
        finally:
            stop.set()
            thread.join()


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.play([_answer(header={"revision": "1"})], [_answer(header={"revision": "2"})])
    client = EtcdClient([peer.url])

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


def test_what_comes_before_the_end_of_a_watch_is_read_before_its_error(peer: Peer) -> None:
    cancelled = {"canceled": True, "compact_revision": "5"}
    peer.play([_stream({"created": True}, {"events": _events(3)}, cancelled)])
    watch = EtcdClient([peer.url]).watch("a", 1)
    response = watch.read(5)
    assert response is not None
    assert response.revision == 3
    for _ in range(2):
        with pytest.raises(etcd.EtcdCompacted) as caught:
            watch.read(5)
        assert caught.value.compact_revision == 5


def test_fragments_are_one_response(peer: Peer) -> None:
    parts = [{"fragment": True, "events": _events(3, 3)}, {"events": _events(3, 4)}]
    peer.play([_stream({"created": True}, *parts)])
    watch = EtcdClient([peer.url]).watch("a", 1)
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
def test_why_a_watch_ended(peer: Peer, end: bytes, error: str) -> None:
    peer.play([_stream({"created": True}, {"events": _events(3)}, end=end)])
    with EtcdClient([peer.url]).watch("a", 1) as watch:
        assert watch.read(5) is not None
        with pytest.raises(getattr(etcd, error), match=peer.url):
            watch.read(5)


def test_a_token_and_a_password_show_nowhere(peer: Peer) -> None:
    token, password = "t0ken.of.etcd", "s3cret"
    refused = _answer(403, code=7, message="etcdserver: permission denied")
    peer.play([_answer(header={}, token=token), refused, b"HTTP/1.1 200 OK\r\n\r\n" + b"{"])
    client = EtcdClient([peer.url], username="flat", password=password)
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
