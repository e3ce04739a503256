# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 packets that the relay makes itself: ICMP errors, and fragments."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from .checksum import field, total

UNREACHABLE, TIME_EXCEEDED = 3, 11
NET_UNREACHABLE, FRAGMENTATION_NEEDED, TTL_EXCEEDED = 0, 4, 0
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000

# The errors of a device that was removed while it was open.
GONE = (errno.EBADFD, errno.EBADF, errno.ENODEV)

_ICMP = 1
_ICMP_ERRORS = (3, 4, 5, 11, 12)
# As much of the packet as keeps the answer within 576 bytes (RFC 1812, 4.3.2.3).
_QUOTED = 576 - 20 - 8
_TTL = 64
_HEADER = struct.Struct("!BBHHHBBHII")
_COPIED = 0x80  # an IP option that belongs in every fragment


def icmp_error(
    kind: int, code: int, rest: int, source: int, packet: bytes | bytearray | memoryview
) -> bytes | None:
    """An ICMP error about ``packet``, whose IPv4 header was checked; None if the standard forbids
    one (RFC 1122, 3.2.2). ``rest`` is the ICMP header's last word, such as the next hop's MTU."""
    origin = int.from_bytes(packet[12:16], "big")
    target = packet[16]
    size = (packet[0] & 15) * 4
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:
        return None  # not the first fragment
    if origin >> 28 >= 14 or origin >> 24 in (0, 127) or target >= 224:
        return None
    if packet[9] == _ICMP and (len(packet) <= size or packet[size] in _ICMP_ERRORS):
        return None
    body = bytes(packet[:_QUOTED])
    message = struct.pack("!BBHI", kind, code, 0, rest) + body
    message = message[:2] + struct.pack("!H", field(total(message))) + message[4:]
    header = _HEADER.pack(0x45, 0xC0, 20 + len(message), 0, 0, _TTL, _ICMP, 0, source, origin)
    return header[:10] + struct.pack("!H", field(total(header))) + header[12:] + message


def fragments(packet: bytes | bytearray | memoryview, mtu: int) -> Iterator[bytes]:
    """The fragments of ``packet``, of at most ``mtu`` bytes each (RFC 791, 3.2)."""
    size = (packet[0] & 15) * 4
    flags = int.from_bytes(packet[6:8], "big")
    header = bytes(packet[:size])
    payload = bytes(packet[size:])
    offset = 0
    while offset < len(payload):
        room = (mtu - len(header)) // 8 * 8
        if room <= 0:
            return
        part = payload[offset : offset + room]
        more = offset + room < len(payload)
        fragment = (flags & ~MORE_FRAGMENTS) + offset // 8
        if more or flags & MORE_FRAGMENTS:
            fragment |= MORE_FRAGMENTS
        yield _with(header, len(header) + len(part), fragment) + part
        if offset == 0:
            header = _rest(header)
        offset += room


def _with(header: bytes, length: int, fragment: int) -> bytes:
    out = bytearray(header)
    out[2:4] = struct.pack("!H", length)
    out[6:8] = struct.pack("!H", fragment)
    out[10:12] = b"\0\0"
    out[10:12] = struct.pack("!H", field(total(out)))
    return bytes(out)


def _rest(header: bytes) -> bytes:
    """The header of the fragments after the first: it has only the options that are copied."""
    options = bytearray()
    at = 20
    while at < len(header) and header[at]:
        size = 1 if header[at] == 1 else header[at + 1] if at + 1 < len(header) else 0
        if size < 1 or (header[at] != 1 and size < 2):
            break
        if header[at] & _COPIED:
            options += header[at : at + size]
        at += size
    options += bytes(-len(options) % 4)
    return bytes([0x40 | (20 + len(options)) // 4]) + header[1:20] + bytes(options)


class Limiter:
    """Allows ``rate`` events a second, and ``burst`` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def allows(self, now: float) -> bool:
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
