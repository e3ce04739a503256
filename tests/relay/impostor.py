# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who has taken over the relay's user, and answers in the relay's place as they like."""

from __future__ import annotations

import contextlib
import socket
import threading
import typing as t
from pathlib import Path

#: How it answers each who asks, on the connection.
Answer = t.Callable[[socket.socket, threading.Event], None]


class Impostor:
    """Listens at ``path`` and answers, whoever asks, each on its own."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._answer = answer
        self.asked = 0
        self._ended = threading.Event()
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._listener.settimeout(0.1)
        self._work = [threading.Thread(target=self._serve)]

    def __enter__(self) -> Impostor:
        self._work[0].start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        # The first one makes the others: once it has ended, all are there.
        for each in self._work:
            each.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection = self._listener.accept()[0]
                self.asked += 1
                answering = threading.Thread(target=self._serve_one, args=(connection,))
                answering.start()
                self._work.append(answering)

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._answer(connection, self._ended)


def slowly(connection: socket.socket, ended: threading.Event) -> None:
    """A byte a second, for as long as anybody listens."""
    while not ended.wait(1):
        connection.sendall(b" ")


def never(connection: socket.socket, ended: threading.Event) -> None:
    """Nothing at all, until whoever asks goes away."""
    connection.settimeout(0.1)
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            if not connection.recv(4096):
                return


def saying(text: bytes) -> Answer:
    """This, whatever is asked."""

    def answer(connection: socket.socket, _ended: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(text)

    return answer


NESTED = b"[" * 60_000 + b"\n"
NESTED_OBJECTS = b'{"a":' * 10_000 + b"\n"
LONG = b'{"table": "' + b"x" * (100 << 20) + b'"}\n'
ESCAPES = b'{"error": "\\u001b]0;owned\\u0007\\nERROR all is well"}\n'
ODD = b'{"table": {"revision": "1", "peers": null, "digest": []}, "settings": 7}\n'
