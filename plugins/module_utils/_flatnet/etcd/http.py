# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 answers, parsed as their bytes arrive. Private to client.py.

A watch is an answer that never ends. It is waited for with short timeouts, and read by whoever
polls its socket. http.client cannot do that: its buffered reader is unusable after a timeout, and
poll() does not see what it has buffered. So one small incremental parser serves watches and calls.
"""

from __future__ import annotations

MAX_HEAD = 65536
# Headers that say where a body ends. Two different values of one of them are an error.
_FRAMING = ("content-length", "transfer-encoding")
# A chunk's size with its extensions; all trailer lines are within MAX_HEAD.
MAX_SIZE_LINE = 4096


class BadHttp(ValueError):
    """The peer does not speak HTTP/1."""


class Answer:
    """Feed it what the socket gives; it returns the part of that which is body.

    status is 0 until the head is complete. ended: no more will come. complete: the body is whole.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self.complete = False
        self._pending = bytearray()
        self._chunked = False
        # Bytes of body (or of this chunk) still to come; -1: until the peer closes.
        self._left = 0
        self._in_trailer = False
        self._trailer = 0
        self._close = False

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return self.complete and not self._pending and self._left != -1 and not self._close

    def feed(self, data: bytes) -> bytes:
        """The body in ``data``. Empty ``data`` means that the peer closed the connection."""
        if not data:
            self.ended = True
            self.complete = self.complete or (self.status > 0 and self._left == -1)
            return b""
        self._pending += data
        if not self.status and not self._take_head():
            return b""
        body = self._take_chunks() if self._chunked else self._take_plain()
        self.ended = self.complete
        return body

    def _take_head(self) -> bool:
        if not b"HTTP/1.".startswith(bytes(self._pending[:7])):
            raise BadHttp("no HTTP")
        end = self._pending.find(b"\r\n\r\n")
        if end < 0:
            if len(self._pending) > MAX_HEAD:
                raise BadHttp("no end of the HTTP head")
            return False
        lines = self._pending[:end].decode("latin-1").split("\r\n")
        del self._pending[: end + 4]
        version, _space, rest = lines[0].partition(" ")
        if not rest[:3].isdigit() or not rest[:3].isascii():
            raise BadHttp("no HTTP status")
        for line in lines[1:]:
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            if name in _FRAMING and self.headers.get(name, value.strip()) != value.strip():
                raise BadHttp(f"two different {name}")
            self.headers[name] = value.strip()
        self._set_framing(version)
        self.status = int(rest[:3]) or 1
        return True

    def _set_framing(self, version: str) -> None:
        connection = self.headers.get("connection", "").lower()
        self._close = connection == "close" or (
            version == "HTTP/1.0" and connection != "keep-alive"
        )
        length = self.headers.get("content-length")
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._chunked = True
        elif length is None:
            self._left = -1
        elif length.isdigit() and length.isascii() and len(length) < 16:
            self._left = int(length)
        else:
            raise BadHttp("a wrong Content-Length")

    def _take_plain(self) -> bytes:
        if self._left == -1:
            body = bytes(self._pending)
            self._pending.clear()
            return body
        body = bytes(self._pending[: self._left])
        del self._pending[: len(body)]
        self._left -= len(body)
        self.complete = self._left == 0
        return body

    def _take_chunks(self) -> bytes:
        """A chunk is its size in hexadecimal, a line end, the bytes, a line end; size 0 is last,
        and then come trailer lines and an empty line."""
        parts: list[bytes] = []
        while not self.complete:
            if self._left > 2:
                part = bytes(self._pending[: self._left - 2])
                del self._pending[: len(part)]
                parts.append(part)
                self._left -= len(part)
            if self._left > 2 or len(self._pending) < self._left:
                break
            # The line end after the bytes.
            del self._pending[: self._left]
            self._left = 0
            end = self._pending.find(b"\r\n")
            # The length of the line so far.
            length = end if end >= 0 else len(self._pending)
            if self._in_trailer:
                if self._trailer + length > MAX_HEAD:
                    raise BadHttp("no end of the trailer")
            elif length > MAX_SIZE_LINE:
                raise BadHttp("no end of a chunk's size")
            if end < 0:
                break
            line = bytes(self._pending[:end])
            del self._pending[: end + 2]
            if self._in_trailer:
                self._trailer += length + 2
                self.complete = not line
                continue
            size = line.split(b";")[0].strip()
            if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
                raise BadHttp("a wrong chunk size")
            self._left = int(size, 16)
            if self._left:
                self._left += 2
            else:
                self._in_trailer = True
        return b"".join(parts)
