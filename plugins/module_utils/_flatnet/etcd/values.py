# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What etcd holds, and requests to it, as values. Private to client.py, which exports them.

The gateway speaks protobuf's JSON: 64-bit numbers are strings, bytes are base64, fields that are
zero are left out. Keys are str, decoded as UTF-8 with surrogateescape. So a key with any bytes can
be read, printed with repr() and sent back unchanged. Values are bytes, because they may be no text.

Answers are not trusted to be etcd's. Every parse returns a value that is within its type, or raises
one of MALFORMED, and nothing else.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MALFORMED = (ValueError, KeyError, TypeError, AttributeError)

_RESULTS = {"=": "EQUAL", "!=": "NOT_EQUAL", ">": "GREATER", "<": "LESS"}
_END = 1 << 63
_FIELDS = {"CREATE": "create_revision", "MOD": "mod_revision", "VERSION": "version"}


def decode(data: bytes) -> Any:
    """JSON as etcd writes it: without fractions, without numbers of more than 64 bits."""
    try:
        return json.loads(
            data, parse_int=_number, parse_float=_no_number, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _number(text: str) -> int:
    return whole_number(text, low=-_END, high=2 * _END - 1)


def _no_number(text: str) -> Any:
    raise ValueError("not a number that etcd gives: %s" % text[:20])


def encode_raw(key: str) -> bytes:
    """A key's bytes, as etcd has them. etcd orders keys by these."""
    return key.encode("utf-8", "surrogateescape")


def encode(data: str | bytes) -> str:
    """base64 of a key or value."""
    raw = encode_raw(data) if isinstance(data, str) else data
    return b2a_base64(raw, newline=False).decode("ascii")


def decode_key(text: str) -> str:
    return a2b_base64(text).decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> dict[str, str]:
    """key and range_end that cover every key with this prefix; "" covers all keys."""
    key = encode_raw(prefix)
    head = key.rstrip(b"\xff")
    # The end is the first key after those with the prefix. After the last prefix of all there is
    # none, and "\0" means "no end".
    end = head[:-1] + bytes([head[-1] + 1]) if head else b"\0"
    return {"key": encode(key or b"\0"), "range_end": encode(end)}


class KeyValue(NamedTuple):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @classmethod
    def parse(cls, data: dict[str, Any]) -> KeyValue:
        return cls(
            decode_key(data["key"]),
            a2b_base64(data.get("value", "")),
            whole_number(data.get("create_revision", 0)),
            whole_number(data.get("mod_revision", 0)),
            whole_number(data.get("version", 0)),
            # Whoever grants a lease chooses its id, which may be negative.
            whole_number(data.get("lease", 0), low=-_END),
        )


@dataclass(frozen=True)
class Range:
    """Keys in order, as they were at one revision. count is the number of all keys that match.

    cluster is the id of the etcd cluster, the same for all its members; 0 if etcd did not tell it.
    """

    revision: int
    kvs: tuple[KeyValue, ...]
    count: int
    cluster: int = 0

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Range:
        kvs = tuple([KeyValue.parse(each) for each in data.get("kvs", ())])
        return cls(revision_of(data), kvs, whole_number(data.get("count", 0)), cluster_of(data))


class Lease(NamedTuple):
    """An etcd lease: ttl is what is left of granted_ttl, in seconds. keys only if asked for."""

    id: int
    ttl: int
    granted_ttl: int
    keys: tuple[str, ...] = ()


class Event(NamedTuple):
    """kind is "put" or "delete". A delete's kv has only the key and the mod_revision."""

    kind: str
    kv: KeyValue

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Event:
        kind = {"PUT": "put", "DELETE": "delete"}[data.get("type", "PUT")]
        return cls(kind, KeyValue.parse(data["kv"]))


class WatchResponse(NamedTuple):
    """Everything up to revision has been seen: a later watch starts from revision + 1.

    events are in etcd's order, and those of one revision, so of one transaction, come together.
    Without events it is a progress notification. cluster as in Range.
    """

    revision: int
    events: tuple[Event, ...]
    cluster: int = 0


class TxnResult(NamedTuple):
    """responses has one item for each operation of the branch that was taken, in its order: a Range
    for a get, else a count of keys (put: 1; delete: how many there were). cluster as in Range; the
    Ranges in responses have none."""

    succeeded: bool
    revision: int
    responses: tuple[Range | int, ...]
    cluster: int = 0

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The gets' answers alone."""
        return tuple(each for each in self.responses if isinstance(each, Range))

    @classmethod
    def parse(cls, data: dict[str, Any]) -> TxnResult:
        responses: list[Range | int] = []
        for response in data.get("responses", ()):
            if "response_range" in response:
                responses.append(Range.parse(response["response_range"]))
            elif "response_delete_range" in response:
                responses.append(deleted_of(response["response_delete_range"]))
            elif "response_put" in response:
                responses.append(1)
            else:
                raise ValueError("not a response that etcd gives")
        succeeded = data.get("succeeded", False)
        if not isinstance(succeeded, bool):
            raise ValueError("neither true nor false")
        return cls(succeeded, revision_of(data), tuple(responses), cluster_of(data))

    def answers(self, success: Sequence[Op], failure: Sequence[Op]) -> bool:
        """Whether each operation of the branch that was taken has a response of the right kind."""
        branch = success if self.succeeded else failure
        return len(self.responses) == len(branch) and all(
            isinstance(response, Range) == (each.kind == "range")
            for response, each in zip(self.responses, branch)
        )


class Status(NamedTuple):
    """What one member says of itself. leader is 0 if it has none."""

    endpoint: str
    version: str
    member_id: int
    leader: int
    revision: int
    db_size: int
    errors: tuple[str, ...]

    @classmethod
    def parse(cls, endpoint: str, data: dict[str, Any]) -> Status:
        return cls(
            endpoint,
            str(data.get("version", "")),
            whole_number(data["header"].get("member_id", 0), high=2 * _END - 1),
            whole_number(data.get("leader", 0), high=2 * _END - 1),
            revision_of(data),
            whole_number(data.get("dbSize", 0)),
            tuple(str(each) for each in data.get("errors") or ()),
        )


@dataclass(frozen=True)
class Compare:
    """A condition of a transaction; result is one of = != > <."""

    key: str
    target: str
    operand: int | bytes
    result: str = "="

    @classmethod
    def create_revision(cls, key: str, revision: int, result: str = "=") -> Compare:
        """With revision 0: the key does not exist."""
        return cls(key, "CREATE", revision, result)

    @classmethod
    def mod_revision(cls, key: str, revision: int, result: str = "=") -> Compare:
        return cls(key, "MOD", revision, result)

    @classmethod
    def version(cls, key: str, version: int, result: str = "=") -> Compare:
        return cls(key, "VERSION", version, result)

    @classmethod
    def value(cls, key: str, value: str | bytes, result: str = "=") -> Compare:
        raw = value.encode() if isinstance(value, str) else value
        return cls(key, "VALUE", raw, result)

    def to_json(self) -> dict[str, Any]:
        what: dict[str, Any] = {
            "key": encode(self.key),
            "target": self.target,
            "result": _RESULTS[self.result],
        }
        if isinstance(self.operand, bytes):
            what["value"] = encode(self.operand)
        else:
            what[_FIELDS[self.target]] = str(self.operand)
        return what


@dataclass(frozen=True)
class Op:
    """An operation of a transaction; kind is put, range or delete_range."""

    kind: str
    key: str
    value: bytes = b""
    lease: int = 0
    prefix: bool = False

    @classmethod
    def put(cls, key: str, value: str | bytes, lease: int = 0) -> Op:
        return cls("put", key, value.encode() if isinstance(value, str) else value, lease)

    @classmethod
    def get(cls, key: str) -> Op:
        return cls("range", key)

    @classmethod
    def get_prefix(cls, prefix: str) -> Op:
        """All keys at once, without paging: a transaction cannot page."""
        return cls("range", prefix, prefix=True)

    @classmethod
    def delete(cls, key: str) -> Op:
        return cls("delete_range", key)

    @classmethod
    def delete_prefix(cls, prefix: str) -> Op:
        return cls("delete_range", prefix, prefix=True)

    def body(self) -> dict[str, Any]:
        """The request's own message."""
        what: dict[str, Any] = prefix_range(self.key) if self.prefix else {"key": encode(self.key)}
        if self.kind == "put":
            what["value"] = encode(self.value)
            if self.lease:
                what["lease"] = str(self.lease)
        return what

    def to_json(self) -> dict[str, Any]:
        """The same as a part of a transaction."""
        return {f"request_{self.kind}": self.body()}


def revision_of(answer: dict[str, Any]) -> int:
    return whole_number(answer["header"].get("revision", 0))


def cluster_of(answer: dict[str, Any]) -> int:
    """The id of the cluster that answers. Another id means another history, whatever the
    revisions."""
    return whole_number(answer["header"].get("cluster_id", 0), high=2 * _END - 1)


def deleted_of(answer: dict[str, Any]) -> int:
    return whole_number(answer.get("deleted", 0))


def whole_number(value: object, low: int = 0, high: int = _END - 1) -> int:
    """A number as protobuf's JSON has it: of 64 bits in a string, of 32 bits as it is."""
    # No long text for int(): its time grows with the square of the length.
    if isinstance(value, str) and len(value) <= 20 and value.isascii():
        digits = value[1:] if value[:1] == "-" else value
        value = int(value) if digits.isdigit() else None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError("not a number that etcd gives")
    return value
