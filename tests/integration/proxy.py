# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TCP proxy before etcd, which lets things happen between a request and its answer."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import typing as t
from types import TracebackType

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Proxy:
    """Passes on requests of HTTP 1.1, and meddles with transactions that write, and with lists.

    ``before_list``: called each time that etcd has answered a list, before the answer is passed on.
    ``before_write``: called one after the other, each before one such request is passed on.
    ``lose_answers``: so many times the connection ends when etcd has answered such a request.
    ``lose_requests``: so many times it ends instead of the request being passed on.
    """

    def __init__(self, url: str) -> None:
        host, _colon, port = url.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        self.before_list: t.Callable[[], object] | None = None
        self.before_write: list[t.Callable[[], object]] = []
        self.lose_answers = 0
        self.lose_requests = 0

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self._serve)
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

    def _serve(self) -> None:
        """One connection at a time: the tests' client has no more."""
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return  # closed
            with client, contextlib.suppress(ConnectionError):
                self._connection(client)

    def _connection(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            while True:
                request = _message(client)
                if not request:
                    return
                writes = b"/v3/kv/txn" in request and (
                    b"request_put" in request or b"request_delete_range" in request
                )
                if writes and self.before_write:
                    self.before_write.pop(0)()
                if writes and self.lose_requests:
                    self.lose_requests -= 1
                    return
                server.sendall(request)
                answer = _message(server)
                if self.before_list and b"/v3/kv/range" in request and b"range_end" in request:
                    self.before_list()
                if writes and self.lose_answers:
                    self.lose_answers -= 1
                    return
                client.sendall(answer)


def _message(sock: socket.socket) -> bytes:
    """One HTTP message with its body; empty at the connection's end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return b""
        data += more
    head, _end, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    if found:
        while len(body) < int(found.group(1)):
            body += sock.recv(65536)
    elif b"chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += sock.recv(65536)
    return head + b"\r\n\r\n" + body
