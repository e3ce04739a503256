# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of vectors: a frame of up to 64 KB goes to another relay of ours whole.

Other peers get a frame cut into packets. A relay of ours gets it as one frame, in as few datagrams
as it fits in. A datagram is a part of a frame:

    byte  0       0xF1: format 1. No IPv4 packet begins with it.
          1       the number of the part in its frame, from 0; 255: this is a report
          2 to 3  length of the packet that is in the frame
          4       the sender's worker, which numbers its frames by itself
          5 to 7  the frame's number
    then, in the first part, 4 bytes: GSO type, 0, payload of a segment; then the packet

All numbers are big-endian. All parts of a frame are of one length, except the last, which may be
shorter. They are sent in one call. The packet's own TCP or UDP checksum is left partial, as between
two devices of one host, because the checksums of the outer datagrams protect it on the way.

If one part is lost, the whole frame is lost. So the receiver counts the frames of each of the
sender's workers, and sends a report a few times a second. From byte 2 on a report has

          2       0
          3       the sender's worker that it is for
          4 to 7  frames that were sent, as far as the receiver knows, modulo 2**32
          8 to 11 frames that arrived, modulo 2**32

vector_sending.py decides by these reports whether a peer gets vectors or packets.
vector_receiving.py joins the parts, and counts.
"""

from __future__ import annotations

import struct

from .frames import GSO_ECN, GSO_TCP4, GSO_UDP, NEEDS_CSUM, TCP, UDP, VNET, View

MAGIC = 0xF1
HEADER = struct.Struct("!BBHI")
META = struct.Struct("!BBH")
# What precedes the packet in the first datagram.
BEFORE = HEADER.size + META.size
# With less room in a datagram a frame would have more parts than can be numbered.
SMALLEST_ROOM = 576
REPORT_PART = 0xFF
REPORT_EVERY = 0.25  # seconds
SERIAL = (1 << 24) - 1  # the highest number of a frame
WORD = 0xFFFFFFFF
_REPORT = struct.Struct("!BBBBII")


def prepare(slot: bytearray, start: int, room: int) -> list[View]:
    """Prepare ``slot`` from ``start`` on for datagrams of ``room`` bytes: write what is the same in
    the headers of all frames. Returns where the parts of a packet go."""
    view = memoryview(slot)
    parts = []
    for part, at in enumerate(range(start, len(slot) - room + 1, room)):
        slot[at] = MAGIC
        slot[at + 1] = part
        begin = at + HEADER.size + (0 if part else META.size)
        parts.append(view[begin : at + room])
    return parts


def wrap(
    slot: bytearray, start: int, room: int, length: int, kind: int, size: int, number: int
) -> tuple[int, int]:
    """Complete the headers for a packet of ``length`` bytes that was read into the parts. Returns
    how many datagrams there are, and where the last one ends.

    Each byte of the headers is written for all parts at once, because a step of Python for each
    part would cost too much."""
    content = room - HEADER.size
    whole = length + META.size
    count = -(-whole // content)
    last = start + (count - 1) * room
    at = start + 2
    for value in HEADER.pack(MAGIC, 0, length, number)[2:]:
        slot[at : at + last - start + 1 : room] = bytes((value,)) * count
        at += 1
    META.pack_into(slot, start + HEADER.size, kind, 0, size)
    return count, last + HEADER.size + whole - (count - 1) * content


def pack_report(worker: int, sent: int, arrived: int) -> bytes:
    """A report for one of the sender's workers."""
    return _REPORT.pack(MAGIC, REPORT_PART, 0, worker, sent & WORD, arrived & WORD)


def read_report(datagram: View) -> tuple[int, int, int] | None:
    """The sender's worker, frames sent, frames arrived; None if it is no report."""
    if len(datagram) != _REPORT.size or datagram[1] != REPORT_PART:
        return None
    dummy, dummy, dummy, worker, sent, arrived = _REPORT.unpack(datagram)
    return worker, sent, arrived


def unwrap(first: View | bytes, length: int) -> tuple[bytes, int] | None:
    """The virtio header for a frame of ``length`` bytes whose first part is ``first``, and where
    the packet begins in that part. None if the device must not be given this frame.

    The sender is not trusted: all values are taken from the packet's own headers."""
    if len(first) < META.size + 28:
        return None
    kind, dummy, size = META.unpack_from(first)
    at = META.size
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
