# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vector mode: a frame of up to 64 KB goes to a relay of ours whole, without being cut in packets.

    byte  0       0xF1: format 1. No IPv4 packet starts so.
          1       which part of the frame, from 0; 255: a report
          2 to 3  length of the packet in the frame
          4       which of the sender's workers numbers it
          5 to 7  the frame's number
    then, in the first part, 4 bytes: GSO type, 0, payload of a segment; and the packet.

All numbers are big-endian. All parts but the last are of one length, and are sent in one call. The
packet's own TCP or UDP checksum is left partial, as between two devices of one host: on the way the
outer datagrams' checksums protect it.

Losing one part loses the frame, as much as a window's worth of packets. So the receiver counts and
reports, a few times a second, how many frames of each of the sender's workers were numbered and how
many arrived; a report has no frame's fields from byte 2 on, but

          2       0
          3       the sender's worker that it is for
          4 to 7  frames that were sent, as far as one can tell, modulo 2**32
          8 to 11 frames that arrived, likewise

A sender that hears of too many losses, or nothing at all, goes back to packets for this peer, for a
time that doubles each time. What a busy host loses or delays is not the way's fault, and packets
would only add to its work: so a receiver does not count what its own queue had no room for, a
sender that stood still itself waits anew, and one that hears again from a peer that was silent
goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Union

from .frames import GSO_ECN, GSO_TCP4, GSO_UDP, NEEDS_CSUM, TCP, UDP, VNET, View

MAGIC = 0xF1
HEADER = struct.Struct("!BBHI")
_META = struct.Struct("!BBH")
# What precedes a packet in the first datagram.
BEFORE = HEADER.size + _META.size
# Below this a frame would have more parts than can be numbered.
SMALLEST_ROOM = 576
_REPORT = struct.Struct("!BBBBII")
_REPORT_PART = 0xFF
_SERIAL = (1 << 24) - 1
_WORD = 0xFFFFFFFF

# What may be incomplete at a time: frames of one worker of a peer, and bytes of all peers.
_MOST_PENDING = 32
_MOST_WAITING = 16 << 20
_MOST_WORKERS = 16
_PATIENCE = 1.0  # seconds that a frame may take to be complete
REPORT_EVERY = 0.25
# A judgement needs so many frames, and more than a few that are missing: one that was overtaken by
# others may be on its way.
_ENOUGH = 32
_BEARABLE_LOSS = 0.02
_FEW = 2
_SILENCE = 3.0
# Between ticks; after longer it was this host that stood still.
_STILL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 640.0


class Sending:
    """How one worker's frames to one peer fare, and whether to send it any."""

    def __init__(self, now: float) -> None:
        self._serial = 0
        self._reported: tuple[int, int] | None = None
        self._unheard = 0
        self._unheard_since = self._ticked = now
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0
        self._silent = False
        self.paused = False
        self.fallbacks = 0

    def number(self) -> int:
        """The next frame's."""
        self._serial = (self._serial + 1) & _SERIAL
        self._unheard += 1
        return self._serial

    def heard(self, sent: int, arrived: int, now: float) -> None:
        """Take in a report."""
        self._unheard = 0
        self._unheard_since = now
        if self.paused:
            if not self._silent:
                return  # on what was still under way
            self.paused = False  # it was only late
            self._pause = _FIRST_PAUSE
        before = self._reported
        if before is None or (sent - before[0]) & _WORD > _WORD // 2:  # it started anew
            self._reported = (sent, arrived)
            return
        frames = (sent - before[0]) & _WORD
        if frames < _ENOUGH:
            return
        self._reported = (sent, arrived)
        lost = frames - ((arrived - before[1]) & _WORD)
        if lost > max(frames * _BEARABLE_LOSS, _FEW):
            self._fall_back(now, False)
        else:
            self._pause = _FIRST_PAUSE

    def tick(self, now: float) -> None:
        """A few times a second: see whether anything is heard, and whether a pause is over."""
        still, self._ticked = now - self._ticked, now
        if still > _STILL:
            # What was said meanwhile is yet to be read.
            self._unheard_since += still
        if self.paused and now >= self._paused_until:
            self.paused = False
            self._reported = None
            self._unheard = 0
        if self._unheard < _ENOUGH:
            self._unheard_since = now
        elif now - self._unheard_since > _SILENCE and not self.paused:
            self._fall_back(now, True)

    def _fall_back(self, now: float, silent: bool) -> None:
        self.paused = True
        self._silent = silent
        self.fallbacks += 1
        self._paused_until = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


def prepare(slot: bytearray, start: int, room: int) -> list[View]:
    """Make ``slot`` from ``start`` on datagrams of ``room`` bytes whose headers lack what differs
    from frame to frame; where a packet goes in it, part by part."""
    view = memoryview(slot)
    parts = []
    for part, at in enumerate(range(start, len(slot) - room + 1, room)):
        slot[at] = MAGIC
        slot[at + 1] = part
        begin = at + HEADER.size + (0 if part else _META.size)
        parts.append(view[begin : at + room])
    return parts


def wrap(
    slot: bytearray, start: int, room: int, length: int, kind: int, size: int, number: int
) -> tuple[int, int]:
    """Complete the headers for a packet of ``length`` bytes that was read to its parts; how many
    datagrams it takes, and where the last ends. Columns, so that no part costs a step."""
    content = room - HEADER.size
    whole = length + _META.size
    count = -(-whole // content)
    last = start + (count - 1) * room
    at = start + 2
    for value in HEADER.pack(MAGIC, 0, length, number)[2:]:
        slot[at : at + last - start + 1 : room] = bytes((value,)) * count
        at += 1
    _META.pack_into(slot, start + HEADER.size, kind, 0, size)
    return count, last + HEADER.size + whole - (count - 1) * content


class Waiting:
    """How many bytes of incomplete frames there are, over all peers."""

    def __init__(self) -> None:
        self.size = 0


# What a frame's parts hold, in order.
Pieces = list[Union[View, bytes]]


class Pending:
    """A frame of which parts are missing."""

    __slots__ = ("got", "length", "since", "spans")

    def __init__(self, length: int, since: float) -> None:
        self.length = length
        self.since = since
        self.got = 0
        # Consecutive parts, by the number of the first.
        self.spans: dict[int, Pieces] = {}

    def keep(self) -> None:
        """Copy what it has, since the buffer that it is in is to be used again."""
        self.spans = {part: list(map(bytes, pieces)) for part, pieces in self.spans.items()}

    def overlaps(self, part: int, count: int) -> bool:
        return any(
            part < first + len(pieces) and first < part + count
            for first, pieces in self.spans.items()
        )

    def complete(self) -> Pieces | None:
        """All pieces, once it has all bytes; None if parts are missing nevertheless."""
        found: Pieces = []
        for part in sorted(self.spans):
            if part != len(found):
                return None
            found += self.spans[part]
        self.spans = {}  # of no use any more, and keep() has less to do
        return found


class Stream:
    """What one of a peer's workers sent."""

    __slots__ = ("arrived", "last", "pending", "sent")

    def __init__(self, serial: int) -> None:
        self.last = (serial - 1) & _SERIAL
        self.sent = 0
        self.arrived = 0
        self.pending: dict[int, Pending] = {}


class Receiving:
    """One peer's frames on their way in: rejoined, counted."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._streams: dict[int, Stream] = {}
        self._told: tuple[int, ...] = ()

    def take(
        self, buffer: bytearray, pieces: Pieces, start: int, end: int, length: int, now: float
    ) -> tuple[list[tuple[Stream, Pieces]], list[Pending], list[tuple[int, int]]]:
        """Datagrams of ``length`` bytes each, the last may be shorter, at ``start`` of a buffer;
        ``pieces`` are what follows their headers.

        What is complete with them (to be checked: see ``unwrap``, and to be counted as arrived),
        what keeps views of the buffer, and where datagrams are that are no parts of a frame, each
        with its end. A kernel that joins what it receives joins a report to the parts before it.
        """
        frames: list[tuple[Stream, Pieces]] = []
        waits: list[Pending] = []
        others: list[tuple[int, int]] = []
        first = 0
        while start < end:
            count = _alike(buffer, start, end, length) if pieces[first] else 0
            if count:
                some = pieces[first : first + count]
                found = self._add(buffer, start, some, now)
                if isinstance(found, Pending):
                    waits.append(found)
                elif isinstance(found, tuple):
                    frames.append(found)
                elif not found:
                    stop = min(start + count * length, end)
                    others += [(at, min(at + length, end)) for at in range(start, stop, length)]
            else:
                others.append((start, min(start + length, end)))
                count = 1
            first += count
            start += count * length
        return frames, waits, others

    def _add(
        self, buffer: bytearray, start: int, pieces: Pieces, now: float
    ) -> tuple[Stream, Pieces] | Pending | bool:
        """A frame that these consecutive parts complete; or what they wait in; True if they are not
        needed, False if they make no sense."""
        magic, part, length, number = HEADER.unpack_from(buffer, start)
        if magic != MAGIC or part == _REPORT_PART or number >> 24 >= _MOST_WORKERS:
            return False
        stream = self._streams.get(number >> 24)
        if stream is None:
            stream = self._streams[number >> 24] = Stream(number & _SERIAL)
        serial = number & _SERIAL
        count = len(pieces)
        # All but the last are of one length.
        size = (count - 1) * len(pieces[0]) + len(pieces[-1])
        whole = length + _META.size
        frame = stream.pending.get(serial)
        if frame is None:
            if not _see(stream, serial):
                return True  # complete already
            if part == 0 and size == whole:
                return stream, pieces
            if len(stream.pending) >= _MOST_PENDING:
                self._drop(stream, next(iter(stream.pending)))
            frame = stream.pending[serial] = Pending(length, now)
        if length != frame.length or frame.got + size > whole:
            return False
        if frame.overlaps(part, count):
            return True
        if self._waiting.size + size > _MOST_WAITING:
            self._drop(stream, serial)
            return True
        self._waiting.size += size
        frame.spans[part] = pieces
        frame.got += size
        if frame.got < whole:
            return frame
        self._drop(stream, serial)
        complete = frame.complete()
        return False if complete is None else (stream, complete)

    def tick(self, now: float) -> None:
        """Forget what will not be complete."""
        for stream in self._streams.values():
            for serial in [s for s, f in stream.pending.items() if now - f.since > _PATIENCE]:
                self._drop(stream, serial)

    def close(self) -> None:
        """Forget all of it."""
        for stream in self._streams.values():
            for serial in list(stream.pending):
                self._drop(stream, serial)

    def _drop(self, stream: Stream, serial: int) -> None:
        self._waiting.size -= stream.pending.pop(serial).got

    def forgive(self) -> None:
        """What is missing was lost here, not on the way."""
        for stream in self._streams.values():
            stream.arrived = stream.sent - len(stream.pending)

    def reports(self) -> Iterator[bytes]:
        """What to tell the sender: frames still on their way count as neither sent nor arrived."""
        told = tuple(stream.sent for stream in self._streams.values())
        if told != self._told:
            self._told = told
            for worker, stream in self._streams.items():
                sent = stream.sent - len(stream.pending)
                yield _REPORT.pack(
                    MAGIC, _REPORT_PART, 0, worker, sent & _WORD, stream.arrived & _WORD
                )


_PARTS = bytes(range(256))


def _alike(buffer: bytearray, start: int, end: int, length: int) -> int:
    """How many datagrams from ``start`` on are consecutive parts of one frame: seen column by
    column, so that it does not cost a step for each. 0 if the first is too short to be one."""
    if end - start <= HEADER.size or length <= HEADER.size:
        return 0
    count = -(-(end - start) // length)
    if end - start - (count - 1) * length <= HEADER.size:
        count -= 1  # the last one is too short
        end = start + count * length
    part = buffer[start + 1]
    parts = buffer[start + 1 : end : length]
    if parts != _PARTS[part : part + count]:
        wanted = _PARTS[part : part + count]
        count = next((n for n in range(len(wanted)) if parts[n] != wanted[n]), len(wanted))
        end = min(end, start + count * length)
    for offset in (0, 2, 3, 4, 5, 6, 7):
        column = buffer[start + offset : end : length]
        if column.count(column[0]) != count:
            count = next(n for n in range(count) if column[n] != column[0])
            end = min(end, start + count * length)
    return count


def _see(stream: Stream, serial: int) -> bool:
    """Count a frame not seen before, and those skipped with it; False if it is from before."""
    ahead = (serial - stream.last) & _SERIAL
    if ahead == 0:
        return False
    if ahead <= _SERIAL // 2:
        stream.sent += ahead
        stream.last = serial
        return True
    if _SERIAL + 1 - ahead > 4096:
        # Not late but another count: the sender started anew.
        stream.sent += 1
        stream.last = serial
        return True
    # Counted as sent when a later one came.
    return True


def read_report(datagram: View) -> tuple[int, int, int] | None:
    """The sender's worker, frames sent, frames arrived; None if it is no report."""
    if len(datagram) != _REPORT.size or datagram[1] != _REPORT_PART:
        return None
    dummy, dummy, dummy, worker, sent, arrived = _REPORT.unpack(datagram)
    return worker, sent, arrived


def unwrap(first: View | bytes, length: int) -> tuple[bytes, int] | None:
    """The virtio header for a frame of ``length`` bytes whose first part is ``first``, and where
    the packet starts in it. What was sent is not believed: everything follows from the packet's
    own headers. None if it is no frame that the device may be given."""
    if len(first) < _META.size + 28:
        return None
    kind, dummy, size = _META.unpack_from(first)
    at = _META.size
    start = (first[at] & 15) * 4
    protocol = first[at + 9]
    if start < 20 or len(first) < at + start + (20 if protocol == TCP else 8):
        return None
    if (first[at + 2] << 8 | first[at + 3]) != length or (first[at + 6] & 0x3F) or first[at + 7]:
        return None
    if kind & ~GSO_ECN == GSO_TCP4 and protocol == TCP:
        head = start + (first[at + start + 12] >> 4) * 4
        offset = 16
        if head < start + 20:
            return None
    elif kind == GSO_UDP and protocol == UDP:
        head = start + 8
        offset = 6
    else:
        return None
    if not head < length or len(first) < at + head or not 0 < size <= length - head:
        return None
    return VNET.pack(NEEDS_CSUM, kind, head, size, start, offset), at
