# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports on vectors that workers pass to each other: the kernel gives a report to any worker.

Peers cause these, as many as they like. So they do not go through the main process, no worker waits
for another one, and of each peer only the latest report is kept until the next tick. What there is
no room for is dropped: the next report says as much.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

# A report: the peer's address, frames sent, frames arrived.
_RECORD = struct.Struct("!4sII")
# Records in a message, so that any kernel takes it; messages that are read at a time.
_MOST_RECORDS = 2048
_MOST_MESSAGES = 16


class Mail:
    """The boxes of ``count`` workers. They are made before the workers start; each takes its
    own."""

    def __init__(self, count: int) -> None:
        self._pairs = [
            socket.socketpair(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            for dummy in range(count if count > 1 else 0)
        ]

    def box(self, worker: int) -> Box | None:
        """A worker's box, for its process; None if there is only one worker."""
        inbox = None
        for number, (reading, dummy) in enumerate(self._pairs):
            if number == worker:
                inbox = reading
            else:
                reading.close()
        return Box(worker, inbox, [writing for dummy, writing in self._pairs]) if inbox else None

    def close(self) -> None:
        """Called in the main process, which has no box."""
        for pair in self._pairs:
            for each in pair:
                each.close()


class Box:
    """One worker's box. ``put`` and ``send`` reports for others; ``read`` those from others."""

    def __init__(self, worker: int, inbox: socket.socket, others: list[socket.socket]) -> None:
        self._worker = worker
        self._inbox = inbox
        self._others = others
        self._waiting: list[dict[str, tuple[int, int]]] = [{} for dummy in others]

    def fileno(self) -> int:
        return self._inbox.fileno()

    def put(self, worker: int, address: str, sent: int, arrived: int) -> bool:
        """Keep a peer's latest report on the vectors of another worker; False if there is no such
        worker."""
        if worker >= len(self._others):
            return False
        self._waiting[worker][address] = sent, arrived
        return True

    def send(self) -> int:
        """Send the others what is kept for them. Returns how many reports were dropped."""
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
                except OSError:  # the box is full, or the other worker has ended
                    lost += len(some)
        return lost

    def read(self) -> Iterator[tuple[str, int, int]]:
        """The reports from others: a peer's address, frames sent, frames arrived."""
        for dummy in range(_MOST_MESSAGES):
            try:
                data = self._inbox.recv(_MOST_RECORDS * _RECORD.size)
            except OSError:
                return
            for address, sent, arrived in _RECORD.iter_unpack(data):
                yield socket.inet_ntoa(address), sent, arrived
