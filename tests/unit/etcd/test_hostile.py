# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a server sends, the etcd client gives a value of the promised type, or an EtcdError.

Over real sockets, from a server that is in nobody's interest: hostile_etcd.py in the integration
tests.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import (
    connection,
    listing,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import watch as watching
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.errors import MAX_REASON
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.hostile_etcd import HostileEtcd, chunks, forever, plain

HEADER = {"cluster_id": "14841639068965178418", "member_id": "10276657743932975437", "revision": 9}
KV = {"key": "YQ==", "value": "eA==", "create_revision": "2", "mod_revision": "3", "version": "1"}
RANGE = {"header": HEADER, "kvs": [KV], "count": "1"}
TXN = {
    "header": HEADER,
    "succeeded": True,
    "responses": [
        {"response_range": RANGE},
        {"response_put": {"header": HEADER}},
        {"response_delete_range": {"header": HEADER, "deleted": "1"}},
    ],
}
LEASE = {"header": HEADER, "ID": "7587870", "TTL": "60", "grantedTTL": "60", "keys": ["YQ=="]}
STATUS = {"header": HEADER, "version": "3.4.23", "dbSize": "20480", "leader": "1", "errors": ["x"]}
CREATED = {"result": {"header": HEADER, "created": True}}
EVENTS = {"result": {"header": HEADER, "events": [{"kv": KV}, {"type": "DELETE", "kv": KV}]}}
REFUSAL = {"error": "etcdserver: no space", "code": 8, "message": "etcdserver: no space"}
CANCELLED = {"result": {"header": HEADER, "canceled": True, "compact_revision": "5"}}

OPERATIONS = [Op.get("a"), Op.put("a", b""), Op.delete("a")]
CALLS: dict[str, tuple[t.Callable[[WatchingClient], object], dict[str, t.Any]]] = {
    "get": (lambda client: client.get("a"), RANGE),
    "range_prefix": (lambda client: client.range_prefix("a"), RANGE),
    "put": (lambda client: client.put("a", b"x"), {"header": HEADER}),
    "delete": (lambda client: client.delete("a"), {"header": HEADER, "deleted": "1"}),
    "txn": (lambda client: client.txn([], OPERATIONS), TXN),
    "lease_grant": (lambda client: client.lease_grant(60), LEASE),
    "lease_keepalive": (lambda client: client.lease_keepalive(7), {"result": LEASE}),
    "lease_revoke": (lambda client: client.lease_revoke(7), {"header": HEADER}),
    "lease_time_to_live": (lambda client: client.lease_time_to_live(7), LEASE),
    "status": (lambda client: client.status(), STATUS),
}

# What json.dumps would not write: they are put in place of a text.
RAW = ["1e999", "-1e999", "NaN", "Infinity", "1.0", "9" * 5000, "[" * 5000, '{"a":' * 5000]
NUMBERS = [
    "-1",
    "-9223372036854775809",
    "18446744073709551616",
    "1e3",
    "0x1",
    " 1",
    "٣",
    "1" * 5000,
]
odd_text = st.one_of(
    st.sampled_from([*NUMBERS, *("RAW%d" % i for i in range(len(RAW)))]), st.text()
)
odd = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), odd_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["header", "error", "result", "revision"]), inner),
    ),
    max_leaves=5,
)


def places(value: t.Any, path: tuple[t.Any, ...] = ()) -> list[tuple[t.Any, ...]]:
    """Everywhere in a message."""
    items: t.Iterable[tuple[t.Any, t.Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path, *(each for key, inner in items for each in places(inner, (*path, key)))]


@st.composite
def wrong(draw: st.DrawFn, messages: list[dict[str, t.Any]]) -> bytes:
    """A message that is right but for one to three places, where anything may be."""
    message = copy.deepcopy(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = ["all", *draw(st.sampled_from(places(message)))]
        around: t.Any = {"all": message}
        holder = around
        for key in path:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()) and last != "all":
            del holder[last]
        else:
            holder[last] = draw(odd)
        message = around["all"]
    text = json.dumps(message)
    for index, raw in enumerate(RAW):
        text = text.replace('"RAW%d"' % index, raw)
    return text.encode()


def is_sound(value: object) -> bool:
    """Of the promised types all the way down, and no number out of its range."""
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 64
    if isinstance(value, (etcd.KeyValue, etcd.Lease, etcd.Event, etcd.Status, etcd.TxnResult)):
        return all(type(each) is not dict and is_sound(each) for each in value)
    if isinstance(value, etcd.Range):
        return all(isinstance(each, etcd.KeyValue) and is_sound(each) for each in value.kvs)
    if isinstance(value, tuple):
        return all(map(is_sound, value))
    return isinstance(value, (str, bytes))


@pytest.fixture(scope="module")
def server() -> t.Iterator[HostileEtcd]:
    with HostileEtcd() as server:
        yield server


@pytest.mark.parametrize("call", CALLS)
@given(data=st.data(), status=st.sampled_from([200, 200, 200, 400, 503]))
def test_any_answer_is_a_value_or_an_error(
    call: str, server: HostileEtcd, data: st.DataObject, status: int
) -> None:
    use, right = CALLS[call]
    body = data.draw(wrong([right, right, REFUSAL, {"error": REFUSAL}]))
    server.answer = lambda _path, _body: plain(body, status)
    with WatchingClient([server.url], timeout=0.2) as client:
        said = ""
        try:
            assert is_sound(use(client))
        except etcd.EtcdError as error:
            said = str(error)
        assert said == "" or said.isprintable()


@given(st.lists(wrong([EVENTS, EVENTS, CREATED, CANCELLED, REFUSAL]), max_size=3), st.booleans())
def test_any_message_of_a_watch_is_a_response_or_an_error(
    server: HostileEtcd, messages: list[bytes], confirmed: bool
) -> None:
    if confirmed:
        messages = [json.dumps(CREATED).encode(), *messages]
    lines = b"\n".join([*messages, b""])
    server.answer = lambda _path, _body: chunks([lines, b""])
    with WatchingClient([server.url], timeout=0.2) as client:
        said = ""
        try:
            with client.watch("a", 1) as watch:
                assert is_sound((watch.revision, watch.cluster))
                for _ in range(len(messages) + 1):
                    response = watch.read(0.2)
                    if response:
                        assert is_sound(tuple(response))
        except etcd.EtcdError as error:
            said = str(error)
        assert said == "" or said.isprintable()


@pytest.mark.parametrize("call", CALLS)
def test_the_right_answer_is_a_value(call: str, server: HostileEtcd) -> None:
    use, right = CALLS[call]
    server.answer = lambda _path, _body: plain(json.dumps(right).encode())
    with WatchingClient([server.url]) as client:
        assert is_sound(use(client))


@pytest.mark.parametrize("raw", [*RAW, "-1", '"-1"', '"' + "9" * 5000 + '"', "true", "null", "[]"])
def test_a_revision_that_is_none_is_an_error(server: HostileEtcd, raw: str) -> None:
    server.answer = lambda _path, _body: plain(b'{"header":{"revision":%s}}' % raw.encode())
    with (
        WatchingClient([server.url]) as client,
        pytest.raises(etcd.EtcdBadAnswer, match=server.url),
    ):
        client.get("a")


# Listings


def _keys(*names: str, count: int) -> dict[str, t.Any]:
    kvs = [{**KV, "key": base64.b64encode(name.encode()).decode()} for name in names]
    return {"header": HEADER, "kvs": kvs, "count": str(count)}


@pytest.mark.parametrize(
    ("pages", "why"),
    [
        ([_keys("/a", count=2), _keys("/a", count=1)], "not the next"),
        ([_keys("/b", count=2), _keys("/a", count=1)], "not the next"),
        ([_keys("/a", count=2), _keys("x", count=1)], "not the next"),
        ([_keys("/a", count=5), _keys(count=0)], "0 keys, where 4 are left"),
        ([_keys(count=5)], "0 keys"),
        ([_keys("/a", "/b", count=2)], "2 keys"),
        ([_keys("/a", count=0)], "1 keys, where 0"),
        ([_keys("/a", count=2), {**_keys("/b", count=1), "header": {}}], "different etcd clusters"),
    ],
)
def test_a_listing_is_whole_or_an_error(
    server: HostileEtcd, pages: list[dict[str, t.Any]], why: str
) -> None:
    left = iter(pages)
    server.answer = lambda _path, _body: plain(json.dumps(next(left)).encode())
    with WatchingClient([server.url]) as client, pytest.raises(etcd.EtcdBadAnswer, match=why):
        client.range_prefix("/", page=1)


def test_a_listing_that_never_ends_is_given_up(
    server: HostileEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_LISTING", 100_000)
    numbers = itertools.count()

    def answer(_path: str, _body: dict[str, t.Any]) -> list[bytes]:
        names = ["/%09d" % next(numbers) for _ in range(100)]
        return plain(json.dumps(_keys(*names, count=1 << 60)).encode())

    server.answer = answer
    with (
        WatchingClient([server.url]) as client,
        pytest.raises(etcd.EtcdBadAnswer, match="more than"),
    ):
        client.range_prefix("/", page=100)


def test_large_values_are_listed_in_smaller_pages(
    server: HostileEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER", 100_000)
    value = base64.b64encode(b"x" * 30_000).decode()

    def answer(_path: str, body: dict[str, t.Any]) -> list[bytes]:
        begin = base64.b64decode(body["key"]).decode()
        names = [name for name in ("/a", "/b", "/c", "/d") if name >= begin]
        found = _keys(*names[: int(body["limit"])], count=len(names))
        for each in found["kvs"]:
            each["value"] = value
        return plain(json.dumps(found).encode())

    server.answer = answer
    with WatchingClient([server.url]) as client:
        assert [each.key for each in client.range_prefix("/", page=10).kvs] == [
            "/a",
            "/b",
            "/c",
            "/d",
        ]


def test_a_transaction_is_answered_for_each_operation(server: HostileEtcd) -> None:
    for responses in ([], TXN["responses"][:2], TXN["responses"][::-1], [*TXN["responses"], {}]):
        body = json.dumps({**TXN, "responses": responses}).encode()
        server.answer = lambda _path, _body, body=body: plain(body)
        with WatchingClient([server.url]) as client, pytest.raises(etcd.EtcdBadAnswer) as caught:
            client.txn([], OPERATIONS)
        assert caught.value.maybe_applied


def test_a_refusal_is_one_line_and_not_endless(server: HostileEtcd) -> None:
    text = "\x1b[2J\nfaked line\r" + "x" * 100_000
    body = json.dumps({"code": 9, "message": text}).encode()
    server.answer = lambda _path, _body: plain(body, 400)
    with WatchingClient([server.url]) as client, pytest.raises(etcd.EtcdRequestError) as caught:
        client.get("a")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < MAX_REASON + 200


# HTTP without end


@pytest.mark.parametrize(
    "endless",
    [
        ["HTTP/1.1 200 OK\r\n", "X: y\r\n"],
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"],
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "x"],
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"],
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1;%s\r\n \r\n" % ("x" * 9999)],
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0" * 999],
        ["HTTP/1.1 200 OK\r\n\r\n", " " * 65536],
        ["HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", " " * 65536],
        ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "{"],
    ],
)
def test_an_answer_without_end_is_given_up(
    server: HostileEtcd, monkeypatch: pytest.MonkeyPatch, endless: list[str]
) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER", 1 << 20)
    start, more = (each.encode() for each in endless)
    server.answer = lambda _path, _body: itertools.chain([start], forever(more))
    with WatchingClient([server.url], timeout=60) as client, pytest.raises(etcd.EtcdBadAnswer):
        client.get("a")


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (b"x", "without end"),
        (json.dumps({"result": {**EVENTS["result"], "fragment": True}}).encode() + b"\n", "end"),
    ],
)
def test_a_response_of_a_watch_without_end_is_given_up(
    server: HostileEtcd, monkeypatch: pytest.MonkeyPatch, piece: bytes, error: str
) -> None:
    monkeypatch.setattr(watching, "MAX_RESPONSE", 1 << 20)
    created = json.dumps(CREATED).encode() + b"\n"
    server.answer = lambda _path, _body: chunks(itertools.chain([created], forever(piece * 100)))
    with (
        WatchingClient([server.url]) as client,
        client.watch("a", 1) as watch,
        pytest.raises(etcd.EtcdBadAnswer, match=error),
    ):
        watch.read(60)


def test_a_watch_that_sends_and_says_nothing_gives_the_reader_back(
    server: HostileEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.1)
    created = json.dumps(CREATED).encode() + b"\n"
    server.answer = lambda _path, _body: chunks(itertools.chain([created], forever(b"\n" * 1000)))
    with WatchingClient([server.url]) as client, client.watch("a", 1) as watch:
        assert watch.read(0) is None


def test_a_compressed_answer_that_nobody_asked_for_is_an_error(server: HostileEtcd) -> None:
    packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
    server.answer = lambda _path, _body: plain(packed, 200, b"Content-Encoding: gzip\r\n")
    with WatchingClient([server.url]) as client, pytest.raises(etcd.EtcdBadAnswer):
        client.get("a")


@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_any_bytes_are_an_error(server: HostileEtcd, pieces: list[bytes], headed: bool) -> None:
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" if headed else b"HTTP/1.1 "
    server.answer = lambda _path, _body: [start, *pieces]
    with (
        WatchingClient([server.url], timeout=0.05) as client,
        pytest.raises(etcd.EtcdError) as caught,
    ):
        client.get("a")
    assert str(caught.value).isprintable()
