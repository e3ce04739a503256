# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that etcd's clients come to, and that is not etcd: it answers what a test wants."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import typing as t
from types import TracebackType

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)

# The path and the body asked; what to send, a piece at a time, for ever if need be.
Answering = t.Callable[[str, dict[str, t.Any]], t.Iterable[bytes]]


def plain(body: bytes, status: int = 200, head: bytes = b"") -> list[bytes]:
    """A whole answer."""
    start = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), head)
    return [start + body]


def chunks(pieces: t.Iterable[bytes]) -> t.Iterator[bytes]:
    """An answer in chunks, as a watch's."""
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def forever(piece: bytes) -> t.Iterator[bytes]:
    """Until the client has enough."""
    return itertools.repeat(piece)


class HostileEtcd:
    """Any number of connections, each request answered by ``answer``; a context manager.

    ``requests`` are what was asked: path and body.
    """

    def __init__(self, answer: Answering | None = None) -> None:
        self.answer: Answering = answer or (lambda _path, _body: plain(b"{}"))
        self.requests: list[tuple[str, dict[str, t.Any]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> HostileEtcd:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return  # closed
            self._open.add(client)
            thread = threading.Thread(target=self._connection, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while True:
                asked = _request(client)
                if asked is None:
                    break
                self.requests.append(asked)
                for piece in self.answer(*asked):
                    client.sendall(piece)
        self._open.discard(client)


def _request(client: socket.socket) -> tuple[str, dict[str, t.Any]] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return None
        data += more
    head, _end, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    while found and len(body) < int(found.group(1)):
        body += client.recv(65536)
    return head.split(b" ")[1].decode(), json.loads(body or b"{}")
