# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames as TUN devices with virtio headers give and take them: cutting and joining.

A frame is a packet of up to 64 KB that stands for many: one IP and one TCP (or UDP) header, and the
payload of all, to be cut every ``size`` bytes (``struct virtio_net_hdr`` of
``linux/virtio_net.h``). ``cut`` does what the kernel's tcp_gso_segment and __udp_gso_segment do,
``join`` what its GRO does, and trusts nothing: every checksum is verified before the packets that
carry it become one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .checksum import field, total

NEEDS_CSUM = 1
GSO_NONE, GSO_TCP4, GSO_UDP, GSO_ECN = 0, 1, 5, 0x80
TCP, UDP = 6, 17

# flags, GSO type, length of the headers, payload of a segment, where the checksum starts and where
# in what follows it stands; in the host's byte order.
VNET = struct.Struct("=BBHHHH")
PLAIN = bytes(VNET.size)

_FIN, _PSH, _ACK, _ECE, _CWR = 0x01, 0x08, 0x10, 0x40, 0x80
_LARGEST = 65535
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_DONT_FRAGMENT = 0x4000

View = memoryview


class Malformed(Exception):
    """A frame that its own header does not fit."""


class Cut(NamedTuple):
    """Packets of ``length`` bytes, the last of ``last``; two parts each, headers and payload."""

    parts: list[bytes | View]
    count: int
    length: int
    last: int


def cut_tcp(frame: View, size: int) -> Cut:
    """An IPv4 TCP frame in segments with ``size`` bytes of payload. The frame's own checksums and
    lengths are not looked at. Raises Malformed."""
    start = (frame[0] & 15) * 4
    head = start + (frame[start + 12] >> 4) * 4 if len(frame) >= start + 20 else 0
    length = len(frame)
    if head < start + 20 or head >= length or size <= 0:
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
    # What is the same in all of them.
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
    return Cut(parts, len(parts) // 2, full if len(parts) > 2 else last, last)


_TCP_HEADERS: dict[tuple[int, int], struct.Struct] = {}


def _tcp_header(start: int, head: int):  # type: ignore[no-untyped-def]
    """Packs IPv4 and TCP headers that end at these offsets."""
    made = _TCP_HEADERS.get((start, head))
    if made is None:
        made = struct.Struct("!2sHH4sH%ds4sI5sB2sH%ds" % (start - 12, head - start - 18))
        _TCP_HEADERS[start, head] = made
    return made.pack


def cut_udp(frame: View, size: int) -> Cut:
    """An IPv4 UDP frame in datagrams with ``size`` bytes of payload. Raises Malformed."""
    start = (frame[0] & 15) * 4
    head = start + 8
    length = len(frame)
    if head >= length or size <= 0:
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
    return Cut(parts, len(parts) // 2, head + size if len(parts) > 2 else last, last)


def complete(packet: View, start: int, offset: int) -> bool:
    """Put in the checksum that the kernel left to us: over all from ``start`` on, where the field
    at ``offset`` has the pseudo header's sum. False if it lies outside the packet."""
    place = start + offset
    if place + 2 > len(packet):
        return False
    check = field(total(packet[start:]))
    if not check and packet[9] == UDP:
        check = 0xFFFF  # 0 says that there is none
    packet[place] = check >> 8
    packet[place + 1] = check & 0xFF
    return True


# ver/ihl and TOS, length, ident, flags to protocol, checksum, addresses and ports, then TCP's
# sequence, acknowledgement and offset, flags, window, checksum, the rest of the header.
_TCP_COLUMNS = "!2sHH4sH12sI5sB2sH%ds%dx"
_UDP_COLUMNS = "!2sHH4sH12sHH%dx"
_COLUMNS: dict[tuple[int, int, int], struct.Struct] = {}
_MOST_COLUMNS = 4096


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
    """How many of the first of ``count`` packets of ``length`` bytes each (the last may be shorter)
    can be one frame; 1 if that is not to be had. They are checked in full, checksums too."""
    protocol = packets[9]
    if packets[0] != 0x45 or (packets[6] << 8 | packets[7]) & _FRAGMENT:
        return 1
    if protocol == TCP and length > 40:
        head = 20 + (packets[32] >> 4) * 4
        if packets[33] & ~(_PSH | _ECE) != _ACK or packets[33] & _PSH or not 40 <= head < length:
            return 1
        return _joinable_tcp(packets, head, length, count)
    if protocol == UDP and udp and length > 28 and (packets[26] or packets[27]):
        return _joinable_udp(packets, length, count)
    return 1


def _alike(column: tuple[object, ...], most: int) -> int:
    """How many of the first are equal to the first."""
    first = column[0]
    if column.count(first) == len(column):
        return min(len(column), most)
    for number in range(1, most):
        if column[number] != first:
            return number
    return most


def _joinable_tcp(packets: View, head: int, length: int, count: int) -> int:
    columns = _columns(TCP, head, length)
    whole = len(packets) // length
    rows = list(columns.iter_unpack(packets[: whole * length]))
    if whole < count:  # the shorter last one
        size = len(packets) - whole * length
        if size > head:
            rows.append(
                _columns(TCP, head, size).unpack_from(packets, whole * length)
            )
    first, lengths, idents, middles, checks, flows, sequences, acks, flags, windows, sums, rests = (
        zip(*rows)
    )
    most = len(rows)
    for column in (first, middles, flows, acks, windows, rests):
        most = _alike(column, most)
    if rests[0][:2] != b"\0\0":  # an urgent pointer
        return 1
    size = length - head
    sequence = sequences[0]
    apart = middles[0][0] & 0x40  # DF: identifications mean nothing (RFC 6864)
    fixed = total(first[0] + b"\0\0\0\0" + middles[0]) + total(flows[0][:8])
    tcp_fixed = total(flows[0][:8]) + TCP
    good = 0
    for number in range(most):
        at = number * length
        whole = lengths[number]
        flag = flags[number]
        if (
            sequences[number] != (sequence + number * size) & 0xFFFFFFFF
            or (not apart and idents[number] != (idents[0] + number) & 0xFFFF)
            or whole != (length if at + length <= len(packets) else len(packets) - at)
            or (flag ^ flags[0]) & ~(_PSH | _FIN)
            or (fixed + whole + idents[number] + checks[number]) % 65535
            or (tcp_fixed + whole - 20 + total(packets[at + 20 : at + whole])) % 65535
        ):
            break
        good += 1
        if flag & (_PSH | _FIN):
            break
    return max(good, 1)


def _joinable_udp(packets: View, length: int, count: int) -> int:
    columns = _columns(UDP, 28, length)
    whole = len(packets) // length
    rows = list(columns.iter_unpack(packets[: whole * length]))
    if whole < count:
        size = len(packets) - whole * length
        if size > 28:
            rows.append(_columns(UDP, 28, size).unpack_from(packets, whole * length))
    first, lengths, idents, middles, checks, flows, inners, sums = zip(*rows)
    most = len(rows)
    for column in (first, middles, flows):
        most = _alike(column, most)
    apart = middles[0][0] & 0x40
    fixed = total(first[0] + b"\0\0\0\0" + middles[0]) + total(flows[0][:8])
    udp_fixed = total(flows[0][:8]) + UDP
    good = 0
    for number in range(most):
        at = number * length
        whole = lengths[number]
        if (
            not sums[number]
            or (not apart and idents[number] != (idents[0] + number) & 0xFFFF)
            or whole != (length if at + length <= len(packets) else len(packets) - at)
            or inners[number] != whole - 20
            or (fixed + whole + idents[number] + checks[number]) % 65535
            or (udp_fixed + whole - 20 + total(packets[at + 20 : at + whole])) % 65535
        ):
            break
        good += 1
    return max(good, 1)


def join(packets: View, length: int, count: int) -> list[bytes | View]:
    """What to write to the device for packets that ``joinable`` counted: virtio header, headers,
    payloads. The checksum is left partial: it has been verified."""
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
    parts += [packets[at + head : min(at + length, end)] for at in range(0, end, length)]
    return parts


def runs(packets: View, length: int, udp: bool) -> Iterator[tuple[int, int]]:
    """Packets of ``length`` bytes (the last may be shorter), as (where, how many) that may be
    joined."""
    at = 0
    while at < len(packets):
        left = -(-(len(packets) - at) // length)
        count = joinable(packets[at:], length, left, udp) if left > 1 else 1
        yield at, count
        at += count * length
