# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A watch: etcd's stream of changes. Private to watching.py."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from .connection import Connection, Request
from .errors import (
    EtcdBadAnswer,
    EtcdCompacted,
    EtcdError,
    EtcdUnreachable,
    EtcdWatchClosed,
    Failed,
    Refusal,
    exhausted,
    parse_cancel_reason,
    parse_refusal,
    refused,
)
from .http import Answer
from .values import MALFORMED, Event, WatchResponse, cluster_of, decode, revision_of, whole_number

# Bytes. A larger response, in a line or in fragments, is refused: etcd splits at 1.5 MiB, and to
# list again is faster than to catch up with so many events.
MAX_RESPONSE = 64 << 20
# Bytes. A larger refusal is not etcd's.
MAX_REFUSAL = 65536
# Seconds. If a response goes on and on, read() gives up so long after its time.
PATIENCE = 1.0


class Watch:
    """Iterate over it, or read() with a timeout; poll fileno() and then read(0) until None.

    It ends with an EtcdError if the connection broke, the member lost its leader, the revision is
    compacted, or etcd cancelled it. A new watch from the last response's revision + 1 misses
    nothing, except after EtcdCompacted: then list again. close() may be called from any thread; an
    iteration then ends, and read() raises EtcdWatchClosed. A member that hangs, but keeps its
    connections, sends nothing and no error. Whoever needs to notice this looks for progress.
    """

    def __init__(self, connection: Connection, user: str) -> None:
        self.endpoint = connection.endpoint.url
        # etcd's revision when the watch began, and the id of its cluster.
        self.revision = 0
        self.cluster = 0
        self._connection = connection
        self._user = user
        self._answer = Answer()
        self._line = bytearray()
        self._fragments: list[Event] = []
        # Bytes of the response that is being put together.
        self._size = 0
        self._ready: deque[WatchResponse] = deque()
        self._lock = threading.RLock()
        self._closed = False
        self._end: EtcdError | None = None

    def __repr__(self) -> str:
        return f"<Watch at {self.endpoint}>"

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[WatchResponse]:
        return self

    def __next__(self) -> WatchResponse:
        response = None
        try:
            while response is None:
                response = self.read()
        except EtcdWatchClosed:
            raise StopIteration from None
        return response

    def fileno(self) -> int:
        sock = self._connection.sock
        if self._closed or sock is None:
            raise EtcdWatchClosed(f"the watch at {self.endpoint} is closed")
        return sock.fileno()

    @property
    def ready(self) -> bool:
        """Whether read() has a response without looking at the socket."""
        return bool(self._ready)

    def close(self) -> None:
        self._closed = True
        self._connection.wake()
        with self._lock:
            self._connection.close()

    def read(self, timeout: float | None = None) -> WatchResponse | None:
        """The next response; None if there is none within timeout seconds (0: do not wait)."""
        with self._lock:
            deadline = None if timeout is None else time.monotonic() + timeout
            while self._closed or not self._ready:
                if self._closed:
                    raise EtcdWatchClosed(f"the watch at {self.endpoint} is closed")
                if self._end is not None:
                    raise self._end
                wait = None if deadline is None else max(deadline - time.monotonic(), 0)
                if deadline is not None and time.monotonic() > deadline + PATIENCE:
                    return None
                try:
                    body = self._connection.wait(self._answer, wait)
                    if body is None:
                        return None
                    self._take(self._messages(body))
                    if self._answer.ended:
                        raise Failed(EtcdUnreachable, "the member ended the connection")
                except (Failed, EtcdError) as error:
                    self._ended_by(error)
            return self._ready.popleft()

    def _ended_by(self, error: Failed | EtcdError) -> None:
        """Note the error. read() raises it after the responses that came before."""
        self._connection.close()
        if isinstance(error, Failed):
            self._end = exhausted([(f"watch at {self.endpoint}", error)])
        else:
            self._end = error

    def begin(self, request: Request, token: str, deadline: float) -> Watch | Refusal:
        """Ask for the watch and wait until etcd confirms it, or says why not."""
        # A refused watch leaves its stream open, so that the next try needs another.
        self._connection.close()
        self._answer = Answer()
        self._line.clear()
        self._size = 0
        self._connection.send(request, token, deadline)
        self._connection.keep_alive()
        while True:
            data = self._connection.receive(self._answer, deadline)
            if self._answer.status and self._answer.status != 200:
                return self._refusal(data, deadline)
            messages = self._messages(data)
            first = next(messages, None)
            if first is not None:
                break
            if self._answer.ended:
                raise Failed(EtcdBadAnswer, "the answer is not etcd's")
        refusal = self._refused(first)
        if refusal is not None:
            return refusal
        try:
            self.revision = revision_of(first["result"])
            self.cluster = cluster_of(first["result"])
        except MALFORMED:
            raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None
        try:
            self._take(messages)
        except (Failed, EtcdError) as error:
            self._ended_by(error)
        return self

    def _refusal(self, data: bytes, deadline: float) -> Refusal:
        while not self._answer.complete:
            data += self._connection.receive(self._answer, deadline)
            if len(data) > MAX_REFUSAL:
                raise Failed(EtcdBadAnswer, "the answer is not etcd's: a refusal without end")
        try:
            answer = decode(data)
            if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
                answer = answer["error"]
            return parse_refusal(answer)
        except ValueError:
            raise Failed(
                EtcdBadAnswer, f"the answer is not etcd's (HTTP {self._answer.status})"
            ) from None

    def _messages(self, body: bytes) -> Iterator[dict[str, Any]]:
        """The JSON objects in ``body``, one a line. The last line may be incomplete.

        An error that ends the stream is the last line, without a line end.
        """
        *lines, rest = (body + b"\n" if self._answer.complete else body).split(b"\n")
        for line in lines:
            self._line += line
            text = bytes(self._line).strip()
            self._line.clear()
            if text:
                self._size += len(text)
                yield self._object(text)
        self._line += rest
        if len(self._line) + self._size > MAX_RESPONSE:
            raise Failed(EtcdBadAnswer, "the answer is not etcd's: a response without end")

    @staticmethod
    def _object(text: bytes) -> dict[str, Any]:
        try:
            message = decode(text)
            if isinstance(message, dict) and (
                "error" in message or isinstance(message["result"]["header"], dict)
            ):
                return message
        except MALFORMED:
            pass
        raise Failed(EtcdBadAnswer, "the answer is not etcd's")

    @staticmethod
    def _refused(message: dict[str, Any]) -> Refusal | None:
        """Why etcd ends the stream with this message; None if it does not. Compaction is treated
        elsewhere."""
        if "error" in message:
            try:
                return parse_refusal(message["error"])
            except ValueError:
                raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None
        result = message["result"]
        if result.get("canceled") and not result.get("compact_revision"):
            return parse_cancel_reason(str(result.get("cancel_reason") or "no reason given"))
        return None

    def _take(self, messages: Iterator[dict[str, Any]]) -> None:
        for message in messages:
            refusal = self._refused(message)
            if refusal is not None:
                raise refused(refusal, self.endpoint, self._user, write=False)
            try:
                self._take_result(message["result"])
            except MALFORMED:
                raise Failed(EtcdBadAnswer, "the answer is not etcd's") from None

    def _take_result(self, result: dict[str, Any]) -> None:
        if result.get("canceled"):
            compacted = whole_number(result["compact_revision"])
            raise EtcdCompacted(
                f"etcd at {self.endpoint} no longer holds the revisions before {compacted} "
                "that the watch asked for; list again",
                compacted,
            )
        self._fragments += [Event.parse(each) for each in result.get("events", ())]
        if result.get("fragment"):
            return
        self._size = 0
        events = tuple(self._fragments)
        self._fragments.clear()
        # While it catches up, etcd's header is ahead of the events that it has sent.
        revision = events[-1].kv.mod_revision if events else revision_of(result)
        self._ready.append(WatchResponse(revision, events, cluster_of(result)))
