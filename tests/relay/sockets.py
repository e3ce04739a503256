# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets in the namespaces of a lab, opened by the process that runs the tests."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import time
import typing as t
from pathlib import Path

from tests.lab import Node
from tests.lab.waiting import PATIENCE

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_SET = {"tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_ETH_P_IP, _ETHERNET = 0x0800, 14
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_OUTGOING = 263, 15, 4
_SO_RCVBUFFORCE = 33
UDP_SEGMENT, UDP_GRO = 103, 104
GSO_TCP4, GSO_UDP_L4, GSO_ECN = 1, 5, 0x80


@contextlib.contextmanager
def inside(node: Node) -> t.Iterator[None]:
    """This thread is in the node's network namespace; sockets opened there stay there."""
    with (
        Path("/proc/thread-self/ns/net").open("rb") as here,
        Path("/run/netns", node.netns).open("rb") as there,
    ):
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(descriptor: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def opened(node: Node, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with inside(node):
        made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    return made


def tcp_socket(node: Node) -> socket.socket:
    with inside(node):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def udp_socket(node: Node, port: int = 0) -> socket.socket:
    made = opened(node, socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((node.address, port))
    return made


def raw_socket(node: Node, protocol: int) -> socket.socket:
    """Receives whole packets of a protocol that are for the node."""
    return opened(node, socket.AF_INET, socket.SOCK_RAW, protocol)


def offload(node: Node, device: str, **features: bool) -> None:
    """Switch a device's offloads: tx (checksums), sg, tso, gso, gro."""
    with inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, on in features.items():
            value = ctypes.create_string_buffer(struct.pack("II", _SET[name], on))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)


def silence(pod: Node) -> None:
    """The pod's kernel does not answer what is not for it; what is sent by ``Frames`` passes."""
    rules = ["type filter hook output priority 0", "icmp type != echo-request drop"]
    rules.append("tcp flags & rst == rst drop")
    lines = ["table ip silence {", "chain output {", *rules, "}", "}"]
    pod.exec(["nft", "\n".join(lines)], check=True)


class Frames:
    """All IPv4 packets that reach a node's interface, and a way to send any, offloaded or not."""

    def __init__(self, node: Node, interface: str = "eth0") -> None:
        with inside(node):
            self._in = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._in.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            self._in.bind((interface, _ETH_P_IP))
        self._out.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._out.bind((interface, 0))

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *failure: object) -> None:
        self._in.close()
        self._out.close()

    def clear(self) -> None:
        while self.received(quiet=0):
            pass

    def received(
        self, count: int | None = None, quiet: float = 0.3, longest: float = PATIENCE
    ) -> list[bytes]:
        """Packets until there are so many, or until none comes for a while."""
        found: list[bytes] = []
        until = time.monotonic() + longest
        while (count is None or len(found) < count) and time.monotonic() < until:
            self._in.settimeout(quiet if count is None else longest)
            try:
                data, source = self._in.recvfrom(1 << 17)
            except (TimeoutError, BlockingIOError):
                break
            if source[2] != _PACKET_OUTGOING:
                found.append(data)
        return found

    def send(
        self,
        packet: bytes,
        mac: bytes,
        gso: int = 0,
        size: int = 0,
        header: int = 0,
        partial: bool = False,
    ) -> None:
        """``partial``: TCP's or UDP's checksum is only the pseudo header's sum, the kernel is to
        complete it. So it is with ``gso``, which says how the packet is to be cut: into ``size``
        bytes of payload each, behind ``header`` bytes."""
        if gso or partial:
            start = _ETHERNET + (packet[0] & 15) * 4
            offset = 16 if packet[9] == socket.IPPROTO_TCP else 6
            virtio = struct.pack(
                "=BBHHHH", 1, gso, header and _ETHERNET + header, size, start, offset
            )
        else:
            virtio = bytes(10)
        self._out.send(virtio + mac + mac + struct.pack("!H", _ETH_P_IP) + packet)


class Wire:
    """The other end of the relay's wire: a peer's address and port, a datagram at a time."""

    def __init__(self, node: Node, port: int, to: str) -> None:
        self._udp = udp_socket(node, port)
        self._to = (to, port)
        self.sources: set[tuple[str, int]] = set()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *failure: object) -> None:
        self._udp.close()

    def clear(self) -> None:
        while self.received(quiet=0):
            pass

    def received(
        self, count: int | None = None, quiet: float = 0.3, longest: float = PATIENCE
    ) -> list[bytes]:
        """Datagrams until there are so many, or until none comes for a while."""
        found: list[bytes] = []
        until = time.monotonic() + longest
        while (count is None or len(found) < count) and time.monotonic() < until:
            self._udp.settimeout(quiet if count is None else longest)
            try:
                data, source = self._udp.recvfrom(1 << 16)
            except (TimeoutError, BlockingIOError):
                break
            self.sources.add(source)
            found.append(data)
        return found

    def send(self, *packets: bytes) -> None:
        """Each on its own."""
        for packet in packets:
            self._udp.sendto(packet, self._to)

    def send_together(self, packets: t.Sequence[bytes]) -> None:
        """In one call: all of one length, the last may be shorter."""
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(packets[0])))]
        self._udp.sendmsg([b"".join(packets)], control if len(packets) > 1 else (), 0, self._to)

    def send_batches(self, packets: t.Sequence[bytes], most: int = 60) -> None:
        """In order, in as few calls as there can be."""
        batch: list[bytes] = []
        for packet in packets:
            if batch and (
                len(packet) > len(batch[0])
                or len(batch[-1]) < len(batch[0])
                or len(batch) >= min(most, 65000 // len(batch[0]))
            ):
                self.send_together(batch)
                batch = []
            batch.append(packet)
        if batch:
            self.send_together(batch)
