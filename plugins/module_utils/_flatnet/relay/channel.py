# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages between the main process and a worker: a length, and marshalled values.

Neither end ever waits for the other one. What the socket has no room for is kept until it has.
"""

from __future__ import annotations

import contextlib
import marshal
import select
import socket
import struct
from typing import Any

_SIZE = struct.Struct("=I")
_AT_ONCE = 1 << 18


class Channel:
    """One end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._coming = bytearray()
        self._going = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    @property
    def events(self) -> int:
        """The events to wait for."""
        return select.POLLIN | select.POLLOUT if self._going else select.POLLIN

    def tell(self, *message: Any) -> None:
        data = marshal.dumps(message)
        self._going += _SIZE.pack(len(data)) + data
        self.flush()

    def flush(self) -> None:
        """Send what there is room for. If the other end is gone, ``hear`` will say so."""
        while self._going:
            try:
                sent = self._end.send(memoryview(self._going)[:_AT_ONCE])
            except BlockingIOError:
                return
            except OSError:
                self._going.clear()
                return
            del self._going[:sent]

    def hear(self) -> list[tuple[Any, ...]] | None:
        """The messages that have come in full; None if the other end is closed."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._end.recv(_AT_ONCE)
            except ConnectionError:
                return None
            if not data:
                return None
        self._coming += data
        found = []
        while len(self._coming) >= _SIZE.size:
            end = _SIZE.size + _SIZE.unpack_from(self._coming)[0]
            if len(self._coming) < end:
                break
            found.append(marshal.loads(self._coming[_SIZE.size : end]))
            del self._coming[:end]
        return found
