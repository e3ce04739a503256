# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 packets made and taken apart by hand, right or wrong as asked."""

from __future__ import annotations

import struct
import typing as t
from ipaddress import IPv4Address

ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DF, MF = 0x4000, 0x2000
NOP_TIMESTAMPS = b"\x01\x01\x08\x0a"


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet's (RFC 1071), word by word."""
    if len(data) % 2:
        data += b"\0"
    total = start + sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo(source: str, destination: str, protocol: int, length: int) -> int:
    """The sum of the pseudo header."""
    data = IPv4Address(source).packed + IPv4Address(destination).packed
    data += struct.pack("!HH", protocol, length)
    return checksum(data) ^ 0xFFFF


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    ident: int = 0,
    frag: int = DF,
    tos: int = 0,
    options: bytes = b"",
    spoil: int = 0,
) -> bytes:
    """``frag``: DF, MF and the fragment's offset in units of 8; ``spoil`` changes the checksum."""
    assert len(options) % 4 == 0
    length = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | length // 4,
        tos,
        length + len(payload),
        ident,
        frag,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    found = checksum(header + options) ^ spoil
    return header[:10] + struct.pack("!H", found) + header[12:] + options + payload


def tcp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    seq: int,
    payload: bytes = b"",
    *,
    ack: int = 0,
    flags: int = ACK,
    window: int = 501,
    urgent: int = 0,
    options: bytes = b"",
    ip_options: bytes = b"",
    spoil: int = 0,
    **ip: t.Any,
) -> bytes:
    assert len(options) % 4 == 0
    length = 20 + len(options)
    words = (sport, dport, seq & 0xFFFFFFFF, ack, length // 4 << 4, flags, window, 0, urgent)
    header = struct.pack("!HHIIBBHHH", *words) + options
    start = pseudo(source, destination, TCP, length + len(payload))
    found = checksum(header + payload, start) ^ spoil
    segment = header[:16] + struct.pack("!H", found) + header[18:] + payload
    return ipv4(source, destination, TCP, segment, options=ip_options, **ip)


def udp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    payload: bytes = b"",
    *,
    spoil: int = 0,
    summed: bool = True,
    **ip: t.Any,
) -> bytes:
    header = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    start = pseudo(source, destination, UDP, 8 + len(payload))
    found = ((checksum(header + payload, start) or 0xFFFF) ^ spoil) if summed else 0
    return ipv4(source, destination, UDP, header[:6] + struct.pack("!H", found) + payload, **ip)


def echo(source: str, destination: str, number: int, payload: bytes, **ip: t.Any) -> bytes:
    return icmp(source, destination, 8, 0, struct.pack("!HH", 1, number), payload, **ip)


def icmp(
    source: str, destination: str, kind: int, code: int, rest: bytes, payload: bytes, **ip: t.Any
) -> bytes:
    body = struct.pack("!BBH", kind, code, 0) + rest + payload
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ipv4(source, destination, ICMP, body, **ip)


def fragments(packet: bytes, size: int) -> list[bytes]:
    """The packet, which has no options, in fragments of at most ``size`` bytes."""
    step = (size - 20) // 8 * 8
    payload = packet[20:]
    found = Packet.parse(packet)
    return [
        ipv4(
            found.source,
            found.destination,
            found.protocol,
            payload[offset : offset + step],
            ttl=found.ttl,
            ident=found.ident,
            tos=packet[1],
            frag=offset // 8 | (MF if offset + step < len(payload) else 0),
        )
        for offset in range(0, len(payload), step)
    ]


def hop(packet: bytes, hops: int = 1) -> bytes:
    """The packet as ``hops`` routers later: a smaller TTL and the checksum that belongs to it."""
    length = (packet[0] & 15) * 4
    header = packet[:8] + bytes([packet[8] - hops]) + packet[9:10] + b"\0\0" + packet[12:length]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + packet[length:]


class Packet(t.NamedTuple):
    """What an IPv4 packet says; ``parse`` fails on one that no receiver would take."""

    source: str
    destination: str
    protocol: int
    ttl: int
    ident: int
    flags: int
    payload: bytes
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Packet:
        assert raw[0] >> 4 == 4, raw[:20].hex()
        length = (raw[0] & 15) * 4
        size, ident, flags, ttl, protocol = struct.unpack_from("!HHHBB", raw, 2)
        assert 20 <= length <= size == len(raw), (length, size, len(raw))
        assert checksum(raw[:length]) == 0, raw[:length].hex()
        source, destination = (str(IPv4Address(raw[at : at + 4])) for at in (12, 16))
        return cls(source, destination, protocol, ttl, ident, flags, raw[length:], raw)

    @property
    def fragment(self) -> bool:
        return bool(self.flags & 0x3FFF)

    def summed(self) -> bool:
        """Whether the checksum of TCP, UDP or ICMP is right; there is one in whole packets only."""
        if self.fragment or self.protocol not in (ICMP, TCP, UDP):
            return True
        if self.protocol == ICMP:
            return checksum(self.payload) == 0
        if self.protocol == UDP and self.payload[6:8] == b"\0\0":
            return True
        start = pseudo(self.source, self.destination, self.protocol, len(self.payload))
        return checksum(self.payload, start) == 0

    @property
    def flow(self) -> tuple[t.Any, ...]:
        """What has to stay in order."""
        ports = self.payload[:4] if self.protocol in (TCP, UDP) and not self.fragment else b""
        return (self.source, self.destination, self.protocol, ports)

    @property
    def data(self) -> bytes:
        """What TCP or UDP carries."""
        return self.payload[(self.payload[12] >> 4) * 4 if self.protocol == TCP else 8 :]


def partial(packet: bytes) -> bytes:
    """The packet with only the pseudo header's sum where TCP's or UDP's checksum is."""
    start = (packet[0] & 15) * 4
    place = start + (16 if packet[9] == TCP else 6)
    found = Packet.parse(packet)
    total = pseudo(found.source, found.destination, found.protocol, len(packet) - start)
    return packet[:place] + struct.pack("!H", total) + packet[place + 2 :]


def head(packet: bytes) -> int:
    """Where what TCP or UDP carries begins."""
    start = (packet[0] & 15) * 4
    return start + (8 if packet[9] == UDP else (packet[start + 12] >> 4) * 4)


def cut(packet: bytes, size: int) -> list[bytes]:
    """The TCP or UDP packet, which is longer than any link takes, as packets with ``size`` bytes of
    payload each; what an offload has to make of it."""
    start, at = (packet[0] & 15) * 4, head(packet)
    payload = packet[at:]
    found = Packet.parse(packet)
    made = []
    for number, offset in enumerate(range(0, len(payload), size)):
        part = payload[offset : offset + size]
        last = offset + size >= len(payload)
        inner = bytearray(packet[start:at] + part)
        if found.protocol == TCP:
            sequence = struct.unpack_from("!I", inner, 4)[0] + offset
            struct.pack_into("!I", inner, 4, sequence & 0xFFFFFFFF)
            inner[13] &= 0xFF if last else 0xFF ^ (FIN | PSH)
            inner[13] &= 0xFF if number == 0 else 0xFF ^ CWR
            place = 16
        else:
            struct.pack_into("!H", inner, 4, len(inner))
            place = 6
        inner[place : place + 2] = b"\0\0"
        total = pseudo(found.source, found.destination, found.protocol, len(inner))
        check = checksum(bytes(inner), total)
        if found.protocol == UDP:
            check = check or 0xFFFF
        struct.pack_into("!H", inner, place, check)
        outer = bytearray(packet[:start])
        struct.pack_into("!HH", outer, 2, start + len(inner), (found.ident + number) & 0xFFFF)
        outer[10:12] = b"\0\0"
        struct.pack_into("!H", outer, 10, checksum(bytes(outer)))
        made.append(bytes(outer + inner))
    return made


def unnumbered(raw: bytes) -> bytes:
    """The packet without its identification and header checksum, if it may not be fragmented: then
    the identification says nothing (RFC 6864), and offloads may choose another."""
    if raw[6] & 0x40 and not (raw[6] & 0x3F or raw[7]):
        return raw[:4] + b"\0\0" + raw[6:10] + b"\0\0" + raw[12:]
    return raw
