# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client without etcd: what it encodes, what it refuses, and peers that break off.

What a real etcd can be made to do is tested on one, in tests/integration/test_etcd*.py.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import traceback
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    EtcdClient,
    Op,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.http import (
    Answer,
    BadHttp,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.options import (
    parse_endpoint,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.values import (
    decode_key,
    encode,
    prefix_range,
)
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


def test_an_answer_tells_its_cluster() -> None:
    largest = (1 << 64) - 1
    header = {"header": {"revision": "7", "cluster_id": str(largest)}}
    assert etcd.Range.parse(header) == etcd.Range(7, (), 0, largest)
    assert etcd.TxnResult.parse(header).cluster == largest


@pytest.mark.parametrize("field", ["revision", "cluster_id"])
@pytest.mark.parametrize("bad", [-1, "-1", 1e999, 1.0, True, None, "", "x", "9" * 5000, 1 << 64])
def test_a_header_without_sense_is_refused(field: str, bad: object) -> None:
    with pytest.raises(ValueError, match="not a number"):
        etcd.Range.parse({"header": {field: bad}})


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
    with pytest.raises(etcd.EtcdInvalidOption, match="use etcd_username") as caught:
        EtcdClient(["http://root:s3cret@127.0.0.1:2379"])
    shown = "".join(traceback.format_exception(caught.type, caught.value, None))
    assert "s3cret" not in shown


def test_the_same_endpoint_twice_counts_once() -> None:
    client = EtcdClient(["http://127.0.0.1:2379", "http://127.0.0.1:2379/"])
    assert client.endpoints == ("http://127.0.0.1:2379",)


def test_clients_spread_over_the_endpoints() -> None:
    urls = tuple("http://192.0.2.%d:2379" % number for number in range(3))
    clients = [EtcdClient(urls) for _ in range(200)]
    assert {client.endpoints[0] for client in clients} == set(urls)
    assert all(sorted(client.endpoints) == list(urls) for client in clients)
    assert all(EtcdClient(urls, in_order=True).endpoints == urls for _ in range(20))


def test_an_endpoint_to_avoid_is_the_last() -> None:
    urls = tuple("http://192.0.2.%d:2379" % number for number in range(3))
    client = EtcdClient(urls, in_order=True)
    client.avoid(urls[0])
    assert client.endpoints == (urls[1], urls[2], urls[0])
    client.avoid("http://192.0.2.9:2379")
    assert client.endpoints == (urls[1], urls[2], urls[0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"endpoints": []}, "etcd_endpoints"),
        ({"endpoints": "http://127.0.0.1:2379"}, "etcd_endpoints"),
        ({"ca_file": "/ca.pem"}, "etcd_ca_file"),
        ({"endpoints": ["https://a:1", "http://b:1"], "ca_file": "/ca"}, "etcd_ca_file"),
        ({"endpoints": ["https://a:1", "http://b:1"]}, "etcd_endpoints"),
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
        "import sys, ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client;"
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
