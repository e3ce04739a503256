# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay's worker without a kernel: datagrams and frames in, frames and datagrams out.

Its device is a pair of sockets that keep messages apart; its UDP socket is made up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import (
    config,
    device,
    receiver,
    router,
    sender,
    vector_sending,
    wires,
)

from tests.relay.packets import cut, head

VNET = struct.Struct("=BBHHHH")
GSO_TCP4, GSO_UDP_L4, GSO_ECN = 1, 5, 0x80
HERE, PORT, MTU = "192.0.2.1", 8285, 1472
OWN, NETWORK = "10.5.1.0/24", "10.5.0.0/16"

Source = tuple[str, int]


class _Queue(device.Queue):
    """Gives what it is given, asked for frames or not."""

    def ask_for_frames(self, wanted: bool) -> None:
        pass


class _Udp:
    """What a worker asks of its socket."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.waiting: list[tuple[bytes, int, Source]] = []
        self.sent: list[tuple[bytes, Source]] = []
        self.dropped = 0

    def fileno(self) -> int:
        return -1

    def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
        return bytes(size - 4) + struct.pack("=I", self.dropped)

    def recvmsg_into(
        self, buffers: list[bytearray], *_unused: int
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Source]:
        if not self.waiting:
            raise BlockingIOError
        data, length, source = self.waiting.pop(0)
        buffers[0][: len(data)] = data
        control = [(17, 104, struct.pack("=i", length))] if length else []
        return len(data), control, 0, source

    def sendmsg(
        self,
        parts: t.Iterable[bytes],
        control: t.Sequence[tuple[int, int, bytes]],
        _flags: int,
        endpoint: Source,
    ) -> int:
        data = b"".join(parts)
        length = struct.unpack("=H", control[0][2])[0] if control else len(data)
        if length > self.mtu:
            raise OSError(errno.EMSGSIZE, "too long")
        # What the kernel refuses otherwise, as no message should ever be: see udp_send_skb().
        assert length > 0
        assert len(data) <= 65507
        assert -(-len(data) // length) <= 64
        self.sent += [(data[at : at + length], endpoint) for at in range(0, len(data), length)]
        return len(data)

    def sendto(self, data: bytes, _flags: int, endpoint: Source) -> int:
        self.sent.append((bytes(data), endpoint))
        return len(data)


class Frame(t.NamedTuple):
    """What the device is given, or gives."""

    packet: bytes
    gso: int = 0
    size: int = 0
    partial: bool = False

    def to_bytes(self) -> bytes:
        if not (self.gso or self.partial):
            return bytes(10) + self.packet
        start = (self.packet[0] & 15) * 4
        offset = 16 if self.packet[9] == 6 else 6
        length = head(self.packet) if self.gso else 0
        return VNET.pack(1, self.gso, length, self.size, start, offset) + self.packet

    @classmethod
    def parse(cls, raw: bytes) -> Frame:
        """Whole ones have nothing in their virtio header, others all that the kernel wants."""
        flags, gso, length, size, start, offset = VNET.unpack_from(raw)
        packet = raw[10:]
        if not gso:
            assert raw[:10] == bytes(10)
            return cls(packet)
        assert gso & ~GSO_ECN in (GSO_TCP4, GSO_UDP_L4)
        assert flags == 1
        assert start == (packet[0] & 15) * 4
        assert offset == (16 if packet[9] == 6 else 6)
        assert length == head(packet) < len(packet)
        assert size > 0
        return cls(packet, gso, size, True)

    def packets(self) -> list[bytes]:
        """What the kernel makes of it."""
        return cut(self.packet, self.size) if self.gso else [self.packet]


class Worker:
    """One that knows peers, given as subnet, address, and the vectors it reads."""

    def __init__(self, *peers: tuple[str, str, int], mtu: int = MTU, own: str = OWN) -> None:
        settings = config.RelaySettings("tun", own.partition("/")[0], own, NETWORK, HERE, mtu)
        # Messages stay whole, and none is lost for want of room.
        self._kernel, self._own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self._kernel, self._own):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        self.udp = _Udp(mtu)
        queue = _Queue(self._own.fileno(), "tso+uso", True)
        sock = device.Socket(t.cast("socket.socket", self.udp), True, True, 1 << 20)
        self.router = router.Router(PORT, mtu)
        self.wires = wires.Wires(settings, queue, sock, self.router)
        self.sender = sender.Sender(self.wires, 0)
        self.receiver = receiver.Receiver(self.wires, 0, lambda *_unused: True)
        self.replace(*peers)

    def replace(self, *peers: tuple[str, str, int]) -> None:
        self.router.replace(router.pack(peers))
        self.sender.take_frames(any(each[2] for each in peers))
        for peer in self.router.peers.values():
            peer.vectors = vector_sending.Sending(0.0) if peer.vector else None

    def close(self) -> None:
        self._kernel.close()
        self._own.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def drops(self) -> dict[str, int]:
        return {reason: count for reason, count in self.wires.drops.items() if count}

    def receive(self, data: bytes, length: int, address: str) -> list[Frame]:
        """What the device is given of datagrams of a length that came together."""
        self.udp.waiting.append((data, length, (address, PORT)))
        while self.receiver.drain(False):
            pass
        self.udp.sent.clear()  # what it tells peers
        return self._written()

    def _written(self) -> list[Frame]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(Frame.parse(self._kernel.recv(1 << 17)))
        return found

    def send(self, *frames: bytes) -> tuple[list[tuple[bytes, Source]], list[Frame]]:
        """The datagrams made of what the device gives, and what is written to it, such as ICMP."""
        for each in frames:
            os.write(self._kernel.fileno(), each)
        while self.sender.drain(False):
            pass
        sent, self.udp.sent = self.udp.sent, []
        return sent, self._written()
