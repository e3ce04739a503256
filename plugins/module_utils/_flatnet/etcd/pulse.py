# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small questions to one member; nobody waits for the answers. Private to watching.py."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Callable, Union

from .connection import Connection, Request
from .errors import EtcdBadAnswer, EtcdTimeout, EtcdUnreachable, Failed, Refusal, exhausted
from .http import Answer
from .values import MALFORMED, Range

# Bytes. The question asks for the number of keys, and not for their values.
MAX_ANSWER = 65536

# Returns a token for requests over the connection. With a refusal: another token if that may help,
# else it raises. The last argument says that this was the last try.
Authorize = Callable[[Connection, "Refusal | None", bool], str]
Parse = Callable[[int, bytes], Union[dict[str, Any], Refusal]]


class Pulse:
    """Whether one member answers, and at which revision etcd is. It is for whoever watches there.

    ask(), then poll fileno(), and read() until there is an answer. A member answers only if it is a
    part of the quorum and has taken in all that was written before the question. After ``timeout``
    seconds, or if the member refuses or closes the connection, read() raises an EtcdError.
    """

    def __init__(
        self,
        connection: Connection,
        request: Request,
        timeout: float,
        authorize: Authorize,
        parse: Parse,
    ) -> None:
        self.endpoint = connection.endpoint.url
        self.asked = False
        self._connection = connection
        self._request = request
        self._timeout = timeout
        self._authorize = authorize
        self._parse = parse
        self._answer = Answer()
        self._data = b""
        self._deadline = 0.0
        self._last = False

    def __enter__(self) -> Pulse:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int | None:
        """The socket to poll; None while no question is open."""
        sock = self._connection.sock
        return sock.fileno() if self.asked and sock is not None else None

    @property
    def deadline(self) -> float:
        """When read() gives up, by time.monotonic()."""
        return self._deadline

    def close(self) -> None:
        self.asked = False
        self._connection.close()

    def ask(self) -> None:
        """Send the question. Waits only if it has to connect, or to get a token, first."""
        self._deadline = time.monotonic() + self._timeout
        self._last = False
        try:
            self._send(None)
        except Failed as failure:
            raise self._given_up(failure) from None

    def _send(self, refusal: Refusal | None) -> None:
        token = self._authorize(self._connection, refusal, self._last)
        self._answer, self._data = Answer(), b""
        self._connection.send(self._request, token, self._deadline)
        self.asked = True

    def read(self) -> Range | None:
        """The answer, once; None while there is none. Does not wait."""
        try:
            while self.asked and not self._answer.complete:
                body = self._connection.wait(self._answer, 0)
                if body is None:
                    if time.monotonic() >= self._deadline:
                        raise Failed(EtcdTimeout, "no answer in time")
                    return None
                self._data += body
                if len(self._data) > MAX_ANSWER:
                    raise Failed(EtcdBadAnswer, "the answer is not etcd's: without end")
                if self._answer.ended and not self._answer.complete:
                    raise Failed(EtcdUnreachable, "the member ended the connection")
            return self._result() if self.asked else None
        except Failed as failure:
            raise self._given_up(failure) from None

    def _result(self) -> Range | None:
        self.asked = False
        if not self._answer.keep_alive:
            self._connection.close()
        answer = self._parse(self._answer.status, self._data)
        if isinstance(answer, Refusal):
            # Once more with a new token. If the token is not the reason, this raises the error.
            self._send(answer)
            self._last = True
            return None
        try:
            return Range.parse(answer)
        except MALFORMED:
            raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None

    def _given_up(self, failure: Failed) -> Exception:
        self.close()
        return exhausted([(self.endpoint, failure)])
