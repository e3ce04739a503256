# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers tell each other: reports on vectors that came to one and are about another's.

Peers cause these, as many as they like. So the main process has no part in it, nobody waits for
anybody, and only the latest report of a peer is kept until the next tick takes it along. What does
not fit is dropped: the next report tells as much.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

# A report: the peer's address, frames sent, frames arrived.
_RECORD = struct.Struct("!4sII")
# So many fit in a message that any kernel takes, and so many are read at a time.
_MOST_RECORDS = 2048
_MOST_MESSAGES = 16


class Mail:
    """Boxes for ``count`` workers, made before they are; each takes its own."""

    def __init__(self, count: int) -> None:
        self._pairs = [
            socket.socketpair(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            for dummy in range(count if count > 1 else 0)
        ]

    def box(self, worker: int) -> Box | None:
        """A worker's own, in its process; None if there is nobody else."""
        inbox = None
        for number, (reading, dummy) in enumerate(self._pairs):
            if number == worker:
                inbox = reading
            else:
                reading.close()
        return Box(worker, inbox, [writing for dummy, writing in self._pairs]) if inbox else None

    def close(self) -> None:
        """In whatever process has no box."""
        for pair in self._pairs:
            for each in pair:
                each.close()


class Box:
    """One worker's: ``put`` and ``send`` what is for others, ``read`` what came from them."""

    def __init__(self, worker: int, inbox: socket.socket, others: list[socket.socket]) -> None:
        self._worker = worker
        self._inbox = inbox
        self._others = others
        self._waiting: list[dict[str, tuple[int, int]]] = [{} for dummy in others]

    def fileno(self) -> int:
        return self._inbox.fileno()

    def put(self, worker: int, address: str, sent: int, arrived: int) -> bool:
        """Keep the latest report of a peer on another worker's vectors; False if there is no such
        worker."""
        if worker >= len(self._others):
            return False
        self._waiting[worker][address] = sent, arrived
        return True

    def send(self) -> int:
        """Have the others get what is kept; how many reports did not fit."""
        lost = 0
        for worker, waiting in enumerate(self._waiting):
            if not waiting:
                continue
            records = [
                _RECORD.pack(socket.inet_aton(address), *counts)
                for address, counts in waiting.items()
            ]
            waiting.clear()
            for first in range(0, len(records), _MOST_RECORDS):
                some = records[first : first + _MOST_RECORDS]
                try:
                    self._others[worker].send(b"".join(some))
                except OSError:  # it is full, or the other worker has ended
                    lost += len(some)
        return lost

    def read(self) -> Iterator[tuple[str, int, int]]:
        """Reports from others: a peer's address, frames sent, frames arrived."""
        for dummy in range(_MOST_MESSAGES):
            try:
                data = self._inbox.recv(_MOST_RECORDS * _RECORD.size)
            except OSError:
                return
            for address, sent, arrived in _RECORD.iter_unpack(data):
                yield socket.inet_ntoa(address), sent, arrived
