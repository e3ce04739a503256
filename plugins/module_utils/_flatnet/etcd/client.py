# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd v3 over its JSON gateway, with the standard library alone.

For modules and for a resident service: nothing of Ansible is imported. One client keeps one
connection to each endpoint it used; any thread may use it, and calls wait for each other.

- Order: a call goes to the endpoint that worked last, then to the others. At first they are in an
  order of chance, so that the clients of a fleet spread over the members; in_order keeps the given.
- Time: `timeout` seconds for one attempt at one endpoint, from resolving its name to the answer's
  last byte, and three times that for a call, however many endpoints there are: the first has its
  full time, and what is left is shared by those after it. A paged list is several calls, which take
  no longer than ten together. While no member has a leader, which is normal for a second or two
  after one died, a call goes round the endpoints for `timeout` seconds before it gives up.
- Reads are repeated at the next endpoint whatever happened. A write is, only where it certainly was
  not done; otherwise its error has maybe_applied set, and the caller must read before repeating.
- Environment variables for HTTP proxies are ignored.
- With client certificates: etcd's gateway does not pass their names on, so where etcd has
  authentication enabled, user and password are needed as well.
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
from .pulse import Pulse
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
from .watch import Watch

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
    "Pulse",
    "Range",
    "Status",
    "TxnResult",
    "Watch",
    "WatchResponse",
]

# How often a paged list begins anew because its revision was compacted away meanwhile.
RESTARTS = 3
# How many calls' time a paged list may take.
LISTING = 10

T = TypeVar("T")


class EtcdClient:
    """Give endpoints as URLs; files are PEM, and read once, now."""

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
        self._cluster = Cluster(parsed, context, username or "", password or "", seconds)

    def __repr__(self) -> str:
        return f"EtcdClient({', '.join(self.endpoints)})"

    def __enter__(self) -> EtcdClient:
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
        """In the order in which they are tried now: the one that last worked is first."""
        return self._cluster.urls

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses that its connections lead to now, whatever names the endpoints have."""
        return self._cluster.reached

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Have this called before each attempt at an endpoint, so every `timeout` seconds at least
        while etcd is waited for."""
        self._cluster.waiting = call

    def close(self) -> None:
        """Close the connections, not the watches. A later call opens them again."""
        self._cluster.close()

    # Keys

    def get(self, key: str, *, revision: int | None = None, serializable: bool = False) -> Range:
        """One key, now or at a revision. serializable: one member's view, which may be old, but
        which it gives without quorum."""
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
        """Returns the revision."""
        return self._write("/v3/kv/put", Op.put(key, value, lease).body(), revision_of)

    def delete(self, key: str) -> int:
        """Returns how many keys there were: 0 or 1."""
        return self._write("/v3/kv/deleterange", Op.delete(key).body(), deleted_of)

    def delete_prefix(self, prefix: str) -> int:
        """Returns how many keys there were."""
        return self._write("/v3/kv/deleterange", Op.delete_prefix(prefix).body(), deleted_of)

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        """If all compares hold, do success, else failure; either is done whole or not at all."""
        body = {
            "compare": [each.to_json() for each in compares],
            "success": [each.to_json() for each in success],
            "failure": [each.to_json() for each in failure],
        }
        # Not even a read if it writes in one branch only.
        writes = any(each.kind != "range" for each in [*success, *failure])

        def parse(answer: dict[str, Any]) -> TxnResult:
            found = TxnResult.parse(answer)
            if not found.answers(success, failure):
                raise ValueError("not the answers to these operations")
            return found

        return self._cluster.call(_request("/v3/kv/txn", body, writes), parse)

    # etcd leases. To repeat these is harmless: an unused lease expires by itself.

    def lease_grant(self, ttl: int) -> Lease:
        """etcd may give a longer time than asked for."""
        return self._read("/v3/lease/grant", {"TTL": str(ttl)}, _lease)

    def lease_keepalive(self, lease: int) -> int:
        """Returns the seconds that it has again; EtcdLeaseNotFound if it is gone."""
        return self._read("/v3/lease/keepalive", {"ID": str(lease)}, _alive(lease)).ttl

    def lease_revoke(self, lease: int) -> bool:
        """Its keys go with it. False if it was gone already."""
        try:
            return self._read("/v3/lease/revoke", {"ID": str(lease)}, lambda _answer: True)
        except EtcdLeaseNotFound:
            return False

    def lease_time_to_live(self, lease: int, keys: bool = False) -> Lease:
        """What it has left, and its keys if asked for; EtcdLeaseNotFound if it is gone."""
        body = {"ID": str(lease), "keys": keys}
        return self._read("/v3/lease/timetolive", body, _alive(lease))

    # The rest

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = True) -> Watch:
        """Changes of keys with the prefix from start_revision on.

        0 is from now on; what now is, a member that lags behind sees later than others.

        Returns when etcd has confirmed it; it has a connection of its own. progress: now and then
        a response without events, so that a quiet watch can go on from a recent revision.
        """
        create: dict[str, Any] = prefix_range(prefix)
        create.update(start_revision=str(start_revision), progress_notify=progress, fragment=True)
        return self._cluster.watch(_request("/v3/watch", {"create_request": create}))

    def pulse(self, endpoint: str, key: str) -> Pulse:
        """Questions to one endpoint for etcd's revision: see Pulse. It may be asked for a key that
        there is not, but not for one that the user must not read."""
        body = {"key": encode(key), "count_only": True}
        return self._cluster.pulse(endpoint, _request("/v3/kv/range", body))

    def avoid(self, endpoint: str) -> None:
        """Ask this endpoint last, until others do worse."""
        self._cluster.avoid(endpoint)

    def status(self) -> Status:
        """Of the first member that answers; this needs no quorum."""

        return self._cluster.status()

    def _read(self, path: str, body: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> T:
        return self._cluster.call(_request(path, body), parse)

    def _write(self, path: str, body: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> T:
        return self._cluster.call(_request(path, body, write=True), parse)


def _request(path: str, body: dict[str, Any], write: bool = False) -> Request:
    need_leader = not body.get("serializable")
    return Request(path, json.dumps(body).encode("ascii"), write, need_leader)


def _lease(answer: dict[str, Any]) -> Lease:
    ttl = whole_number(answer.get("TTL", 0), low=-1)
    granted = whole_number(answer.get("grantedTTL", ttl), low=-1)
    keys = tuple([decode_key(each) for each in answer.get("keys", ())])
    return Lease(whole_number(answer["ID"], low=-(1 << 63)), ttl, granted, keys)


def _alive(lease: int) -> Callable[[dict[str, Any]], Lease]:
    """etcd tells of a lease that is gone with a time of 0 or -1, not with an error."""

    def parse(answer: dict[str, Any]) -> Lease:
        found = _lease(answer)
        if found.ttl <= 0:
            raise EtcdLeaseNotFound(f"the etcd lease {lease:x} has expired or was revoked")
        return found

    return parse
