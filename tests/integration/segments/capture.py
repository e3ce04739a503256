# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What passes the underlay of a host: VXLAN datagrams over IPv4, and the frames that they carry."""

from __future__ import annotations

import socket
import struct
import typing as t

from tests.integration.namespace import inside
from tests.lab import Host

_ALL = 3
_ETHERNET, _UDP, _VXLAN = 14, 8, 8
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD


class Datagram(t.NamedTuple):
    """Outer headers and, of the frame inside, who sent it to whom and what it is."""

    source: str
    target: str
    ttl: int
    dont_fragment: bool
    port: int
    vni: int
    inner_source: str
    inner_target: str
    kind: str


class Capture:
    """Everything on an interface of a host, both ways, from ``with`` on."""

    def __init__(self, host: Host, port: int = 4789) -> None:
        self._port = port
        with inside(host.netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self._socket.bind(("eth0", _ALL))
            self._socket.setblocking(False)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *failure: object) -> None:
        self._socket.close()

    def datagrams(self) -> list[Datagram]:
        """Those that passed since the last call."""
        found = []
        while True:
            try:
                frame = self._socket.recv(65535)
            except BlockingIOError:
                return found
            one = self._decode(frame)
            if one:
                found.append(one)

    def _decode(self, frame: bytes) -> Datagram | None:
        if frame[12:14] != _IPV4.to_bytes(2, "big") or frame[23] != socket.IPPROTO_UDP:
            return None
        start = _ETHERNET + (frame[_ETHERNET] & 15) * 4
        port = int.from_bytes(frame[start + 2 : start + 4], "big")
        if port != self._port:
            return None
        header = frame[start + _UDP : start + _UDP + _VXLAN]
        inner = frame[start + _UDP + _VXLAN :]
        assert header[0] == 8, "no VXLAN header that has a VNI"
        return Datagram(
            socket.inet_ntoa(frame[26:30]),
            socket.inet_ntoa(frame[30:34]),
            frame[22],
            bool(frame[20] & 0x40),
            port,
            int.from_bytes(header[4:7], "big"),
            inner[6:12].hex(":"),
            inner[:6].hex(":"),
            _kind(inner),
        )


def _kind(frame: bytes) -> str:
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == _ARP:
        return "arp"
    if ethertype == _IPV4 and frame[23] == socket.IPPROTO_ICMP:
        return "ping"
    if ethertype == _IPV6:
        # MLD comes behind a hop-by-hop header.
        kinds = {128: "ping6", 129: "ping6", 133: "rs", 135: "ns", 136: "na"}
        return kinds.get(frame[54], "ipv6") if frame[20] == socket.IPPROTO_ICMPV6 else "ipv6"
    return "%#06x" % ethertype
