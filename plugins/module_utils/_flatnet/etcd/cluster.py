# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call, to whichever member of the cluster answers it. Private to client.py, which has the
rules in its docstring.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, TypeVar

from .connection import Connection, Request
from .errors import (
    EtcdBadAnswer,
    EtcdError,
    EtcdNoQuorum,
    EtcdTimeout,
    Failed,
    Refusal,
    exhausted,
    parse_refusal,
    refused,
)
from .options import Endpoint
from .values import MALFORMED, Status, decode

# Seconds. A member that did not answer has this long to say whether it has a leader.
DIAGNOSIS = 1.0
# Pause between two rounds while no member has a leader.
ELECTION_PAUSE = 0.2
# A call takes no longer than this many times the timeout, however many endpoints there are.
CALL = 3
# Characters. etcd's own tokens have about 30, and some hundreds as JWT.
MAX_TOKEN = 8192

T = TypeVar("T")


class Cluster:
    """The endpoints, with a connection each, and the token that is good for all of them."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        context: ssl.SSLContext | None,
        user: str,
        password: str,
        timeout: float,
    ) -> None:
        # Those that did not work are behind those that were not tried.
        self._connections = [Connection(each, context) for each in endpoints]
        self._context = context
        self._user = user
        self._password = password
        self._timeout = timeout
        # None: not asked for yet. "": etcd has no authentication enabled.
        self._token: str | None = None if user else ""
        self._lock = threading.RLock()
        # Of the attempt that is under way, by time.monotonic().
        self._deadline = 0.0
        # Called before each attempt.
        self.waiting: Callable[[], None] = lambda: None

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(each.endpoint.url for each in self._connections)

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses that connections lead to now."""
        with self._lock:
            return tuple(each.address for each in self._connections if each.address)

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()

    def call(self, request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
        def ask(connection: Connection) -> T:
            answer = self._authorized(
                connection, request, lambda token: self._exchange(connection, request, token)
            )
            try:
                return parse(answer)
            except MALFORMED:
                raise Failed(EtcdBadAnswer, "the answer is not etcd's", sent=True) from None

        return self._anywhere(ask, request.write)

    def avoid(self, url: str) -> None:
        """Ask this one last from now on."""
        with self._lock:
            for connection in [each for each in self._connections if each.endpoint.url == url]:
                connection.close()
                self._connections.remove(connection)
                self._connections.append(connection)

    def status(self) -> Status:
        return self._anywhere(lambda each: self._status(each, self._deadline), write=False)

    def _anywhere(self, ask: Callable[[Connection], T], write: bool) -> T:
        """The answer of the first endpoint that has one."""
        with self._lock:
            begin = time.monotonic()
            give_up, end = begin + self._timeout, begin + CALL * self._timeout
            # The first has its full time; what then is left, the others share.
            self._deadline = give_up
            while True:
                failures: list[tuple[str, Failed]] = []
                order = list(self._connections)
                for index, connection in enumerate(order):
                    url = connection.endpoint.url
                    self.waiting()
                    try:
                        answer = ask(connection)
                    except Failed as failure:
                        failures.append((url, self._diagnosed(connection, failure, end)))
                        if write and failure.sent:
                            raise exhausted(failures[-1:], maybe_applied=True) from None
                        now = time.monotonic()
                        share = (end - now) / (len(order) - index - 1 or len(order))
                        self._deadline = now + min(share, self._timeout)
                        continue
                    self._connections = order[index:] + order[:index]
                    return answer
                leaderless = any(
                    failure.kind is EtcdNoQuorum and not failure.sent for _url, failure in failures
                )
                if not leaderless or time.monotonic() >= give_up:
                    raise exhausted(failures) from None
                time.sleep(ELECTION_PAUSE)

    def _authorized(
        self, connection: Connection, request: Request, ask: Callable[[str], T | Refusal]
    ) -> T:
        """Ask with a token, once more with a new one if it is the token that is refused."""
        answer = ask(self._valid_token(connection))
        if isinstance(answer, Refusal) and answer.about_token and self._user:
            self._token = None
            answer = ask(self._valid_token(connection))
        if isinstance(answer, Refusal):
            url = connection.endpoint.url
            raise refused(answer, url, self._user, request.write) from None
        return answer

    def _valid_token(self, connection: Connection) -> str:
        if self._token is None:
            body = json.dumps({"name": self._user, "password": self._password}).encode("ascii")
            try:
                answer = self._exchange(connection, Request("/v3/auth/authenticate", body), "")
            except Failed as failure:
                # What the token is for was not sent.
                raise Failed(failure.kind, failure.reason) from None
            if not isinstance(answer, Refusal):
                token = answer.get("token")
                if not isinstance(token, str) or not _is_header_value(token):
                    raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None
                self._token = token
            elif answer.auth_disabled:
                self._token = ""
            else:
                error = refused(answer, connection.endpoint.url, self._user, write=False)
                if isinstance(error, Failed):
                    error = Failed(error.kind, error.reason)
                raise error
        return self._token

    def _exchange(
        self, connection: Connection, request: Request, token: str
    ) -> dict[str, Any] | Refusal:
        """One question to one endpoint; a connection that went stale under a read is replaced."""
        try:
            status, data = connection.exchange(request, token, self._deadline)
        except Failed as failure:
            if request.write or not failure.stale:
                raise
            status, data = connection.exchange(request, token, self._deadline)
        return parse(status, data)

    def _status(self, connection: Connection, deadline: float) -> Status:
        request = Request("/v3/maintenance/status", b"{}", need_leader=False)
        answer = parse(*connection.exchange(request, "", deadline))
        if isinstance(answer, Refusal):
            raise refused(answer, connection.endpoint.url, self._user, write=False)
        try:
            return Status.parse(connection.endpoint.url, answer)
        except MALFORMED:
            raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None

    def _diagnosed(self, connection: Connection, failure: Failed, end: float) -> Failed:
        """Why a member did not answer in time. A member without a leader can still say so."""
        if failure.kind is not EtcdTimeout:
            return failure
        connection.close()
        with contextlib.suppress(Failed, EtcdError):
            until = min(time.monotonic() + min(DIAGNOSIS, self._timeout), end)
            if self._status(connection, until).leader == 0:
                return Failed(EtcdNoQuorum, "this member has no leader", failure.sent)
        return failure


def _is_header_value(token: str) -> bool:
    return token.isascii() and token.isprintable() and len(token) <= MAX_TOKEN


def parse(status: int, data: bytes) -> dict[str, Any] | Refusal:
    """etcd's answer; streams that have one answer wrap it in a result, or its error in an error."""
    try:
        answer = decode(data)
        if isinstance(answer, dict) and isinstance(answer.get("result"), dict):
            answer = answer["result"]
        elif isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            return parse_refusal(answer["error"])
        if status != 200:
            return parse_refusal(answer)
        if isinstance(answer, dict) and isinstance(answer.get("header"), dict):
            return answer
    except ValueError:
        pass
    # Something in between, such as a proxy, may have passed the request on before it failed.
    hint = ""
    if b"HTTP request to an HTTPS server" in data:
        hint = ": it wants https://"
    raise Failed(
        EtcdBadAnswer, f"the answer (HTTP {status}) is not etcd's{hint}", sent=status >= 500
    ) from None
