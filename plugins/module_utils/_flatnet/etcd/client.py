# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd v3 over its JSON gateway, with the standard library alone.

Modules and programs use it, so it imports nothing of Ansible. A client keeps one connection to each
endpoint that it has used. Any thread may use it; calls wait for each other.

- Order: a call goes to the endpoint that worked last, then to the others. Their first order is
  random, so that the clients of a fleet spread over the members; in_order keeps the given order.
- Time: an attempt at one endpoint has `timeout` seconds, from resolving its name to the last byte
  of the answer. A call has three times that, however many endpoints there are: the first one has
  its full time, and the others share what is left. A paged list is several calls, which together
  have the time of ten. For a second or two after a member died, no member may have a leader. Then a
  call goes round the endpoints for `timeout` seconds before it gives up.
- A read is repeated at the next endpoint, whatever happened. A write is repeated only if it was
  certainly not done. Otherwise its error has maybe_applied set, and the caller must read before it
  writes again.
- Environment variables for HTTP proxies are ignored.
- Client certificates do not replace user and password: etcd's gateway does not pass their names on.
  If etcd has authentication enabled, both are needed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Callable, TypeVar

from .cluster import CALL, Cluster
from .connection import Request
from .errors import (
    EtcdAnswerTooLarge,
    EtcdAuthFailed,
    EtcdBadAnswer,
    EtcdBadCertificate,
    EtcdCompacted,
    EtcdError,
    EtcdInvalidOption,
    EtcdLeaseNotFound,
    EtcdNoQuorum,
    EtcdPermissionDenied,
    EtcdRequestError,
    EtcdTimeout,
    EtcdUnreachable,
    EtcdWatchClosed,
)
from .listing import Pages
from .options import check_timeout, check_user, parse_endpoints, tls_context
from .values import (
    Compare,
    Event,
    KeyValue,
    Lease,
    Op,
    Range,
    Status,
    TxnResult,
    WatchResponse,
    decode_key,
    deleted_of,
    encode,
    prefix_range,
    revision_of,
    whole_number,
)

__all__ = [
    "Compare",
    "EtcdAnswerTooLarge",
    "EtcdAuthFailed",
    "EtcdBadAnswer",
    "EtcdBadCertificate",
    "EtcdClient",
    "EtcdCompacted",
    "EtcdError",
    "EtcdInvalidOption",
    "EtcdLeaseNotFound",
    "EtcdNoQuorum",
    "EtcdPermissionDenied",
    "EtcdRequestError",
    "EtcdTimeout",
    "EtcdUnreachable",
    "EtcdWatchClosed",
    "Event",
    "KeyValue",
    "Lease",
    "Op",
    "Range",
    "Status",
    "TxnResult",
    "WatchResponse",
]

# How often a paged list begins anew because its revision was compacted away meanwhile.
RESTARTS = 3
# How many calls' time a paged list may take.
LISTING = 10

T = TypeVar("T")
C = TypeVar("C", bound="EtcdClient")


class EtcdClient:
    """A client for endpoints given as URLs. Files are PEM, and are read once, at the start."""

    _members = Cluster

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
        in_order: bool = False,
    ) -> None:
        parsed = parse_endpoints(endpoints)
        if not in_order:
            random.shuffle(parsed)
        self._timeout = seconds = check_timeout(timeout)
        check_user(username, password)
        context = tls_context(parsed, ca_file, cert_file, key_file)
        self._cluster = self._members(parsed, context, username or "", password or "", seconds)

    def __repr__(self) -> str:
        return f"EtcdClient({', '.join(self.endpoints)})"

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs, in the order in which they are tried now. The one that worked last is first."""
        return self._cluster.urls

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses that the connections lead to now."""
        return self._cluster.reached

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Have ``call`` called before each attempt at an endpoint. While a call waits for etcd,
        that is every `timeout` seconds at least."""
        self._cluster.waiting = call

    def close(self) -> None:
        """Close the connections, not the watches. A later call opens them again."""
        self._cluster.close()

    # Keys

    def get(self, key: str, *, revision: int | None = None, serializable: bool = False) -> Range:
        """One key, now or at a revision. serializable: as one member sees it. That needs no quorum,
        and may be old."""
        body: dict[str, Any] = {"key": encode(key), "serializable": serializable}
        if revision:
            body["revision"] = str(revision)

        def parse(answer: dict[str, Any]) -> Range:
            found = Range.parse(answer)
            if found.count != len(found.kvs) or any(each.key != key for each in found.kvs):
                raise ValueError("not the key that was asked for, or not alone")
            return found

        return self._read("/v3/kv/range", body, parse)

    def range_prefix(
        self,
        prefix: str,
        *,
        page: int = 1000,
        revision: int | None = None,
        keys_only: bool = False,
    ) -> Range:
        """All keys with the prefix, in order, as they were at one revision (default: now)."""
        restarts = RESTARTS
        # The last page may take a call's time again.
        until = time.monotonic() + (LISTING - 1) * CALL * self._timeout
        while True:
            try:
                return self._range_pages(prefix, page, revision or 0, keys_only, until)
            except EtcdCompacted:
                restarts -= 1
                if revision or restarts < 0:
                    raise
            except EtcdAnswerTooLarge:
                # Somebody has put large values there.
                page //= 10
                if not page:
                    raise

    def _range_pages(
        self, prefix: str, page: int, revision: int, keys_only: bool, until: float
    ) -> Range:
        body: dict[str, Any] = prefix_range(prefix)
        body.update(limit=str(page), keys_only=keys_only)
        pages = Pages(prefix, page)
        while not pages.whole:
            if time.monotonic() > until:
                raise EtcdTimeout(
                    f"etcd takes too long to list what is below {prefix}: {len(pages.kvs)} of "
                    f"{pages.count} keys so far; {EtcdTimeout.advice}"
                )
            body["revision"] = str(revision)
            pages.add(self._read("/v3/kv/range", body, Range.parse))
            revision = revision or pages.revision
            body["key"] = encode(pages.last + "\0")
        return Range(revision, tuple(pages.kvs), pages.count, pages.cluster)

    def put(self, key: str, value: str | bytes, lease: int = 0) -> int:
        """Write a key; returns the new revision."""
        return self._write("/v3/kv/put", Op.put(key, value, lease).body(), revision_of)

    def delete(self, key: str) -> int:
        """Delete a key; returns how many there were: 0 or 1."""
        return self._write("/v3/kv/deleterange", Op.delete(key).body(), deleted_of)

    def delete_prefix(self, prefix: str) -> int:
        """Delete all keys with the prefix; returns how many there were."""
        return self._write("/v3/kv/deleterange", Op.delete_prefix(prefix).body(), deleted_of)

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        """If all compares hold, do all of success, else all of failure, in one step."""
        body = {
            "compare": [each.to_json() for each in compares],
            "success": [each.to_json() for each in success],
            "failure": [each.to_json() for each in failure],
        }
        # A transaction that writes in one branch only is a write.
        writes = any(each.kind != "range" for each in [*success, *failure])

        def parse(answer: dict[str, Any]) -> TxnResult:
            found = TxnResult.parse(answer)
            if not found.answers(success, failure):
                raise ValueError("not the answers to these operations")
            return found

        return self._cluster.call(request("/v3/kv/txn", body, writes), parse)

    # etcd leases. To repeat these is harmless: an unused lease expires by itself.

    def lease_grant(self, ttl: int) -> Lease:
        """Make an etcd lease of ``ttl`` seconds. etcd may give it a longer time."""
        return self._read("/v3/lease/grant", {"TTL": str(ttl)}, _lease)

    def lease_keepalive(self, lease: int) -> int:
        """Renew an etcd lease; returns its seconds. Raises EtcdLeaseNotFound if it is gone."""
        return self._read("/v3/lease/keepalive", {"ID": str(lease)}, _alive(lease)).ttl

    def lease_revoke(self, lease: int) -> bool:
        """Revoke an etcd lease, and with it its keys. False if it was gone already."""
        try:
            return self._read("/v3/lease/revoke", {"ID": str(lease)}, lambda _answer: True)
        except EtcdLeaseNotFound:
            return False

    def lease_time_to_live(self, lease: int, keys: bool = False) -> Lease:
        """The time that an etcd lease has left, and with ``keys`` its keys. Raises
        EtcdLeaseNotFound if it is gone."""
        body = {"ID": str(lease), "keys": keys}
        return self._read("/v3/lease/timetolive", body, _alive(lease))

    # The rest

    def avoid(self, endpoint: str) -> None:
        """Ask this endpoint last, until others do worse."""
        self._cluster.avoid(endpoint)

    def status(self) -> Status:
        """The status of the first member that answers. This needs no quorum."""

        return self._cluster.status()

    def _read(self, path: str, body: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> T:
        return self._cluster.call(request(path, body), parse)

    def _write(self, path: str, body: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> T:
        return self._cluster.call(request(path, body, write=True), parse)


def request(path: str, body: dict[str, Any], write: bool = False) -> Request:
    need_leader = not body.get("serializable")
    return Request(path, json.dumps(body).encode("ascii"), write, need_leader)


def _lease(answer: dict[str, Any]) -> Lease:
    ttl = whole_number(answer.get("TTL", 0), low=-1)
    granted = whole_number(answer.get("grantedTTL", ttl), low=-1)
    keys = tuple([decode_key(each) for each in answer.get("keys", ())])
    return Lease(whole_number(answer["ID"], low=-(1 << 63)), ttl, granted, keys)


def _alive(lease: int) -> Callable[[dict[str, Any]], Lease]:
    """What parses the answer about an etcd lease. For a lease that is gone, etcd sends no error,
    but a time of 0 or -1."""

    def parse(answer: dict[str, Any]) -> Lease:
        found = _lease(answer)
        if found.ttl <= 0:
            raise EtcdLeaseNotFound(f"the etcd lease {lease:x} has expired or was revoked")
        return found

    return parse
