# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of vectors, joined to frames again, and counted for the reports to their sender.

A call to the kernel brings many datagrams at once, in one buffer. Each byte of their headers is
compared for all of them together, because a step of Python for each datagram would cost too much.
A frame whose parts come in several calls keeps views of the buffer, and copies them only when the
buffer is needed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from .frames import View
from .vector_format import HEADER, MAGIC, META, REPORT_PART, SERIAL, pack_report

# Incomplete frames at a time: of one worker of a peer, and in bytes, of all peers.
_MOST_PENDING = 32
_MOST_WAITING = 16 << 20
_MOST_WORKERS = 16
_PATIENCE = 1.0  # seconds that a frame may take to be complete


class Waiting:
    """How many bytes all incomplete frames have, of all peers."""

    def __init__(self) -> None:
        self.size = 0


# What a frame's parts hold, in order.
Pieces = list[Union[View, bytes]]


class Pending:
    """A frame that is incomplete: parts of it have not come yet."""

    __slots__ = ("got", "length", "since", "spans")

    def __init__(self, length: int, since: float) -> None:
        self.length = length
        self.since = since
        self.got = 0
        # Parts that follow one another, by the number of the first of them.
        self.spans: dict[int, Pieces] = {}

    def keep(self) -> None:
        """Copy the parts, since their buffer is about to be used again."""
        self.spans = {part: list(map(bytes, pieces)) for part, pieces in self.spans.items()}

    def overlaps(self, part: int, count: int) -> bool:
        return any(
            part < first + len(pieces) and first < part + count
            for first, pieces in self.spans.items()
        )

    def complete(self) -> Pieces | None:
        """The pieces in order, if the frame has all its bytes; None if a part is missing all the
        same."""
        found: Pieces = []
        for part in sorted(self.spans):
            if part != len(found):
                return None
            found += self.spans[part]
        self.spans = {}  # nobody needs them any more, and keep() has less to copy
        return found


class Stream:
    """The frames of one of a peer's workers: the ``last`` number that was seen, how many were
    ``sent`` as far as the numbers say, how many ``arrived``, and those that are ``pending``."""

    __slots__ = ("arrived", "last", "pending", "sent")

    def __init__(self, serial: int) -> None:
        self.last = (serial - 1) & SERIAL
        self.sent = 0
        self.arrived = 0
        self.pending: dict[int, Pending] = {}


class Receiving:
    """One peer's frames: joined, and counted."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._streams: dict[int, Stream] = {}
        self._told: tuple[int, ...] = ()

    def take(
        self, buffer: bytearray, pieces: Pieces, start: int, end: int, length: int, now: float
    ) -> tuple[list[tuple[Stream, Pieces]], list[Pending], list[tuple[int, int]]]:
        """Take datagrams of ``length`` bytes each, of which the last may be shorter, from ``start``
        to ``end`` of a buffer. ``pieces`` is what follows their headers. Returns

        - the frames that are complete now; the caller checks them, see ``vector.unwrap``, and
          counts them as arrived
        - the incomplete frames that keep views of the buffer
        - where datagrams begin and end that are no parts of a frame, such as reports: the kernel
          joins a report to the parts before it
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
        """Take parts of one frame that follow one another. Returns the frame if it is complete now,
        or the incomplete frame; True if the parts are not needed; False if they make no sense."""
        magic, part, length, number = HEADER.unpack_from(buffer, start)
        if magic != MAGIC or part == REPORT_PART or number >> 24 >= _MOST_WORKERS:
            return False
        stream = self._streams.get(number >> 24)
        if stream is None:
            stream = self._streams[number >> 24] = Stream(number & SERIAL)
        serial = number & SERIAL
        count = len(pieces)
        # All are of one length, except the last.
        size = (count - 1) * len(pieces[0]) + len(pieces[-1])
        whole = length + META.size
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
        """Forget frames whose time is over."""
        for stream in self._streams.values():
            for serial in [s for s, f in stream.pending.items() if now - f.since > _PATIENCE]:
                self._drop(stream, serial)

    def close(self) -> None:
        """Forget all incomplete frames."""
        for stream in self._streams.values():
            for serial in list(stream.pending):
                self._drop(stream, serial)

    def _drop(self, stream: Stream, serial: int) -> None:
        self._waiting.size -= stream.pending.pop(serial).got

    def forgive(self) -> None:
        """Count missing frames as arrived: they were lost on this host, not on the way."""
        for stream in self._streams.values():
            stream.arrived = stream.sent - len(stream.pending)

    def reports(self) -> Iterator[bytes]:
        """The reports to the sender, if there is news. Incomplete frames count as neither sent nor
        arrived."""
        told = tuple(stream.sent for stream in self._streams.values())
        if told != self._told:
            self._told = told
            for worker, stream in self._streams.items():
                sent = stream.sent - len(stream.pending)
                yield pack_report(worker, sent, stream.arrived)


_PARTS = bytes(range(256))


def _alike(buffer: bytearray, start: int, end: int, length: int) -> int:
    """How many datagrams from ``start`` on are parts of one frame that follow one another. 0 if the
    first is too short to be a part."""
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
    """Count a frame that was not seen before, and those between it and the last one. False if it is
    the last one, which is complete."""
    ahead = (serial - stream.last) & SERIAL
    if ahead == 0:
        return False
    if ahead <= SERIAL // 2:
        stream.sent += ahead
        stream.last = serial
        return True
    if SERIAL + 1 - ahead > 4096:
        # Not a late frame: the sender has started anew, and numbers anew.
        stream.sent += 1
        stream.last = serial
        return True
    # A late frame. It was counted as sent when a later one came.
    return True
