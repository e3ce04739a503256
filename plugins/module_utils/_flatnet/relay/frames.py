# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames, as TUN devices with virtio headers read and write them: cut into packets, and joined.

A frame is a packet of up to 64 KB that stands for many packets. It has one IP and one TCP or UDP
header, and the payload of all, which is to be cut every ``size`` bytes (``struct virtio_net_hdr``
of ``linux/virtio_net.h``). ``cut_tcp`` and ``cut_udp`` do what the kernel's tcp_gso_segment and
__udp_gso_segment do. ``join`` does what the kernel's GRO does; the packets are not trusted, so
``joinable`` verifies every checksum first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from operator import add
from typing import Any, NamedTuple

from .checksum import MOST, all_are, field, total

NEEDS_CSUM = 1
GSO_NONE, GSO_TCP4, GSO_UDP, GSO_ECN = 0, 1, 5, 0x80
TCP, UDP = 6, 17

# The virtio header, in the host's byte order: flags, GSO type, length of the headers, payload of a
# segment, where the bytes of the checksum begin, and how far behind that its field is.
VNET = struct.Struct("=BBHHHH")
PLAIN = bytes(VNET.size)

_FIN, _PSH, _ACK, _ECE, _CWR = 0x01, 0x08, 0x10, 0x40, 0x80
_LARGEST = 65535
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_DONT_FRAGMENT = 0x4000

View = memoryview


class Malformed(Exception):
    """A frame that does not fit its own header."""


class Cut(NamedTuple):
    """Packets of ``length`` bytes, of which the last may be shorter. Each has two parts: headers
    and payload."""

    parts: list[bytes | View]
    packets: int
    length: int


def cut_tcp(frame: View, size: int) -> Cut:
    """Cut an IPv4 TCP frame into segments with ``size`` bytes of payload. The frame's own checksums
    and lengths are ignored. Raises Malformed."""
    start = (frame[0] & 15) * 4
    head = start + (frame[start + 12] >> 4) * 4 if len(frame) >= start + 20 else 0
    length = len(frame)
    if start < 20 or head < start + 20 or head >= length or size <= 0:
        raise Malformed
    pack = _tcp_header(start, head)
    ip_options = bytes(frame[20:start])
    words = frame[start : start + 20]
    first = bytes(frame[0:2])
    ident = frame[4] << 8 | frame[5]
    middle = bytes(frame[6:10])
    flow = bytes(frame[12:20]) + ip_options
    ports = bytes(words[0:4])
    sequence = int.from_bytes(words[4:8], "big")
    acked = bytes(words[8:13])
    flags = words[13]
    window = bytes(words[14:16])
    rest = bytes(frame[start + 18 : head])
    # The sums of what is the same in all segments.
    ip_sum = total(first + b"\0\0\0\0" + middle) + total(flow)
    tcp_sum = total(flow[:8] + ports + acked + b"\0") + TCP + total(window) + total(rest)
    full = head + size
    segment = full - start
    ip_full = ip_sum + full
    tcp_full = tcp_sum + segment
    inner = flags & ~(_FIN | _PSH)
    parts: list[bytes | View] = []
    add = parts.append
    checksum = total
    final = length - size
    current = inner
    at = head
    while at < final:
        payload = frame[at : at + size]
        add(
            pack(
                first,
                full,
                ident,
                middle,
                -(ip_full + ident) % 65535,
                flow,
                ports,
                sequence,
                acked,
                current,
                window,
                -(tcp_full + sequence + current + checksum(payload)) % 65535,
                rest,
            )
        )
        add(payload)
        if at == head:
            inner &= ~_CWR
        current = inner
        ident = (ident + 1) & 0xFFFF
        sequence = (sequence + size) & 0xFFFFFFFF
        at += size
    payload = frame[at:]
    last = head + length - at
    current = flags if at == head else flags & ~_CWR
    ip_check = field(ip_sum + last + ident)
    tcp_check = field(tcp_sum + last - start + sequence + current + total(payload))
    add(
        pack(
            first, last, ident, middle, ip_check, flow,
            ports, sequence, acked, current, window, tcp_check, rest,
        )
    )  # fmt: skip
    add(payload)
    return Cut(parts, len(parts) // 2, full if len(parts) > 2 else last)


_TCP_HEADERS: dict[tuple[int, int], struct.Struct] = {}


def _tcp_header(start: int, head: int):  # type: ignore[no-untyped-def]
    """The function that packs IPv4 and TCP headers which end at these offsets."""
    made = _TCP_HEADERS.get((start, head))
    if made is None:
        made = struct.Struct("!2sHH4sH%ds4sI5sB2sH%ds" % (start - 12, head - start - 18))
        _TCP_HEADERS[start, head] = made
    return made.pack


def cut_udp(frame: View, size: int) -> Cut:
    """Cut an IPv4 UDP frame into datagrams with ``size`` bytes of payload. Raises Malformed."""
    start = (frame[0] & 15) * 4
    head = start + 8
    length = len(frame)
    if start < 20 or head >= length or size <= 0:
        raise Malformed
    first = bytes(frame[0:2])
    ident = frame[4] << 8 | frame[5]
    middle = bytes(frame[6:10])
    flow = bytes(frame[12:start])
    ports = bytes(frame[start : start + 4])
    ip_sum = total(first + b"\0\0\0\0" + middle) + total(flow)
    udp_sum = total(flow[:8] + ports) + UDP
    parts: list[bytes | View] = []
    for at in range(head, length, size):
        payload = frame[at : at + size]
        whole = head + len(payload)
        inner = 8 + len(payload)
        check = field(udp_sum + 2 * inner + total(payload)) or 0xFFFF
        parts.append(
            b"".join((
                first,
                struct.pack("!HH", whole, ident),
                middle,
                struct.pack("!H", field(ip_sum + whole + ident)),
                flow,
                ports,
                struct.pack("!HH", inner, check),
            ))
        )  # fmt: skip
        parts.append(payload)
        ident = (ident + 1) & 0xFFFF
    last = head + len(parts[-1])
    return Cut(parts, len(parts) // 2, head + size if len(parts) > 2 else last)


def complete(packet: View, start: int, offset: int) -> bool:
    """Write the checksum that the kernel has left to us. It is over all bytes from ``start`` on,
    and its field, ``offset`` bytes behind that, has the sum of the pseudo header. False if the
    field is outside the packet."""
    at = start + offset
    if at + 2 > len(packet):
        return False
    check = field(total(packet[start:]))
    if not check and packet[9] == UDP:
        check = 0xFFFF  # 0 would say that there is no checksum
    packet[at] = check >> 8
    packet[at + 1] = check & 0xFF
    return True


# Version to length, ident, flags to protocol, checksum, addresses and ports; then TCP's sequence,
# acknowledgement to window, and what follows the checksum.
_TCP_COLUMNS = "!4sH4sH12sI8s2x%ds%dx"
_UDP_COLUMNS = "!4sH4sH12s2s2x%dx"
_COLUMNS: dict[tuple[int, int, int], struct.Struct] = {}
_MOST_COLUMNS = 4096

Row = tuple[Any, ...]  # one packet's fields, as above


def _columns(protocol: int, head: int, length: int) -> struct.Struct:
    key = (protocol, head, length)
    made = _COLUMNS.get(key)
    if made is None:
        if len(_COLUMNS) >= _MOST_COLUMNS:
            _COLUMNS.clear()
        if protocol == TCP:
            made = struct.Struct(_TCP_COLUMNS % (head - 38, length - head))
        else:
            made = struct.Struct(_UDP_COLUMNS % (length - head))
        _COLUMNS[key] = made
    return made


def joinable(packets: View, length: int, count: int, udp: bool) -> int:
    """How many of ``count`` packets can be one frame, from the first one on; 1 if no two can. All
    have ``length`` bytes, the last may be shorter. They are checked in full, checksums too."""
    if length < 28:
        return 1
    protocol = packets[9]
    if packets[0] != 0x45 or (packets[6] << 8 | packets[7]) & _FRAGMENT:
        return 1
    if packets[2] << 8 | packets[3] != length:
        return 1
    if protocol == TCP and length > 40:
        head = 20 + (packets[32] >> 4) * 4
        flags = packets[33]
        if flags & ~_ECE != _ACK or not 40 <= head < length or packets[38] or packets[39]:
            return 1
    elif protocol == UDP and udp and length > 28:
        head = 28
        if not (packets[26] or packets[27]) or packets[24] << 8 | packets[25] != length - 20:
            return 1  # without a checksum, which a frame's packets must have; or with a trailer
    else:
        return 1
    most = min(count, MOST)
    whole = min(len(packets) // length, most)
    rows = _columns(protocol, head, length).iter_unpack(packets[: whole * length])
    last: Row | None = None
    size = len(packets) - whole * length
    if whole < most and size > head:
        last = _columns(protocol, head, size).unpack_from(packets, whole * length)
    good = _alike(list(zip(*rows)), whole, length - head, last, size)
    while good > 1:
        # What the IP header's checksum does not cover. With the pseudo header its sum has to be 0.
        pieces = [packets[at + 20 : at + length] for at in range(0, good * length, length)]
        flow = total(packets[12:20]) + protocol
        full = -(flow + length - 20)
        if good > whole or protocol == UDP:
            # The last one's length may differ, and then its sum does, too.
            tail = flow + len(pieces[-1]) + total(pieces[-1])
            if tail % 65535 or (protocol == UDP and not _udp_checked(packets, length, good)):
                good -= 1
                continue
            pieces.pop()
        if not pieces or all_are(pieces, full):
            break
        # One of them is broken. Only those before it can be joined.
        good = next((n for n, piece in enumerate(pieces) if (total(piece) - full) % 65535), 0)
    return max(good, 1)


def _udp_checked(packets: View, length: int, count: int) -> bool:
    """Whether all of the UDP packets have a checksum."""
    return not any(
        packets[at + 26] == 0 and packets[at + 27] == 0 for at in range(0, count * length, length)
    )


def _alike(
    columns: list[tuple[Any, ...]], whole: int, size: int, last: Row | None, last_length: int
) -> int:
    """How many packets, from the first one on, have headers that fit one frame. There are ``whole``
    packets of full length, and perhaps a shorter ``last`` one."""
    starts, idents, middles, checks, flows, *transport = columns
    good = whole
    for column in (starts, middles, flows):
        good = _same(column, good)
    # Sums of the IPv4 headers.
    fixed = total(starts[0] + b"\0\0" + middles[0]) + total(flows[0][:8])
    wanted = -fixed % 65535
    sums = set(map(add, idents, checks))
    if not sums <= {wanted, wanted + 65535, wanted + 131070}:
        good = _first(good, lambda n: (idents[n] + checks[n] - wanted) % 65535)
    apart = middles[0][0] & 0x40  # with DF, identifications mean nothing (RFC 6864)
    if not apart:
        good = _first(good, lambda n: idents[n] != (idents[0] + n) & 0xFFFF)
    ended = False
    if len(transport) == 3:
        sequences, controls, rests = transport
        good = _same(rests, good)
        begin = sequences[0]
        if sequences != tuple(range(begin, begin + whole * size, size)):
            good = _first(good, lambda n: sequences[n] != (begin + n * size) & 0xFFFFFFFF)
        same = _same(controls, good)
        # The next one may end the frame.
        ended = same < good and _ends(controls[0], controls[same])
        good = same + 1 if ended else same
    else:
        good = _same(transport[0], good)
    if last is None or good < whole or ended:
        return good
    start, ident, middle, check, flow, *rest = last
    sound = (
        start[:2] == starts[0][:2]
        and start[2:] == last_length.to_bytes(2, "big")
        and middle == middles[0]
        and flow == flows[0]
        and not (total(start + b"\0\0" + middle) + total(flow[:8]) + ident + check) % 65535
        and (apart or ident == (idents[0] + whole) & 0xFFFF)
    )
    if sound and len(transport) == 3:
        sound = (
            rest[0] == (transport[0][0] + whole * size) & 0xFFFFFFFF
            and (rest[1] == controls[0] or _ends(controls[0], rest[1]))
            and rest[2] == rests[0]
        )
    elif sound:
        sound = rest[0] == (last_length - 20).to_bytes(2, "big")
    return whole + 1 if sound else whole


def _ends(first: bytes, other: bytes) -> bool:
    """Whether the fields from the acknowledgement to the window differ in FIN or PSH only."""
    return (
        first[:5] == other[:5]
        and first[6:] == other[6:]
        and not (first[5] ^ other[5]) & ~(_FIN | _PSH)
    )


def _same(column: tuple[Any, ...], most: int) -> int:
    """How many values are equal to the first one, before the first that is not."""
    first = column[0]
    if column.count(first) == len(column):
        return most
    return _first(most, lambda n: column[n] != first)


def _first(most: int, wrong: Callable[[int], Any]) -> int:
    """How many numbers come before the first one that is wrong."""
    return next((number for number in range(most) if wrong(number)), most)


def join(packets: View, length: int, count: int) -> list[bytes | View]:
    """What to write to the device for packets that ``joinable`` has counted: virtio header,
    headers, payloads. The checksum is left partial, since it was verified."""
    protocol = packets[9]
    head = 20 + (packets[32] >> 4) * 4 if protocol == TCP else 28
    end = min(count * length, len(packets))
    whole = head + end - count * head
    header = bytearray(packets[:head])
    header[2:4] = whole.to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = field(total(header[:20])).to_bytes(2, "big")
    partial = (total(header[12:20]) + protocol + whole - 20) % 65535
    size = length - head
    if protocol == TCP:
        header[33] |= packets[(count - 1) * length + 33]
        header[36:38] = partial.to_bytes(2, "big")
        start = VNET.pack(NEEDS_CSUM, GSO_TCP4, head, size, 20, 16)
    else:
        header[24:26] = (whole - 20).to_bytes(2, "big")
        header[26:28] = partial.to_bytes(2, "big")
        start = VNET.pack(NEEDS_CSUM, GSO_UDP, head, size, 20, 6)
    parts: list[bytes | View] = [start + header]
    packets = packets[:end]
    parts += [packets[at + head : at + length] for at in range(0, end, length)]
    return parts


def runs(packets: View, length: int, udp: bool) -> Iterator[tuple[int, int]]:
    """Packets of ``length`` bytes, of which the last may be shorter, in groups that can be joined:
    where each group begins, and how many packets it has."""
    at = 0
    while at < len(packets):
        left = -(-(len(packets) - at) // length)
        count = joinable(packets[at:], length, left, udp) if left > 1 else 1
        yield at, count
        at += count * length
