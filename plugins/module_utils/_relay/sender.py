# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the device to the peers.

A batch is packets of one length to one peer, of which only the last may be shorter: what one
sendmsg with UDP_SEGMENT takes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from . import frames, packets, vector
from .device import SOL_UDP, UDP_SEGMENT, VNET, path_mtu
from .frames import GSO_ECN, GSO_NONE, GSO_TCP4, GSO_UDP, NEEDS_CSUM, View
from .router import Peer
from .wires import (
    MALFORMED,
    NO_ROUTE,
    NOT_IPV4,
    TOO_BIG,
    TTL,
    UNSENT,
    Wires,
)

_SLOTS = 64
_FRAME = VNET + 65536
# Reads of the device before the sockets have their turn.
_BUDGET = 64
_MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS before Linux 6.9
_MOST_BYTES = 65000
_UDP_OVERHEAD = 28
_LEARNT_FOR = 600.0  # seconds that a path's MTU is believed, as the kernel does
_SMALLEST_MTU = 68

# The virtio header's one-byte fields, and the IPv4 header.
_HEAD = struct.Struct("!BB8xBBHHHBBHII")


class Sender:
    """One worker's way out. ``worker`` numbers its vectors."""

    def __init__(self, wires: Wires, worker: int) -> None:
        self._wires = wires
        self._worker = worker << 24
        self._gso = wires.socket.gso
        self._send = wires.socket.udp.sendmsg
        self._slots = [bytearray(_FRAME) for dummy in range(_SLOTS)]
        self._views = [memoryview(slot) for slot in self._slots]
        self._controls: dict[int, list[tuple[int, int, bytes]]] = {}
        # The batch.
        self._peer: Peer | None = None
        self._parts: list[bytes | View] = []
        self._length = 0
        self._count = 0

    def drain(self) -> bool:
        """Take what the device has, up to a budget; whether there may be more."""
        slots, views = self._slots, self._views
        wires = self._wires
        cache = wires.router.cache
        fileno = wires.queue.fileno
        unpack = _HEAD.unpack_from
        readv = os.readv
        used = 0
        left = _BUDGET
        while left:
            left -= 1
            slot = slots[used]
            try:
                size = readv(fileno, (slot,)) - VNET
            except BlockingIOError:
                break
            flags, kind, first, dummy, length, dummy, place, ttl, protocol, check, source, target = (
                unpack(slot)
            )
            if first >> 4 != 4:
                wires.drops[NOT_IPV4] += 1
                continue
            if size != length or size < 20:
                wires.drops[MALFORMED] += 1
                continue
            peer = cache.get(target)
            if peer is None:
                peer = wires.router.find(target)
                if peer is None:
                    self._refuse(NO_ROUTE, views[used][VNET : VNET + size])
                    continue
            if ttl <= 1:
                self._refuse(TTL, views[used][VNET : VNET + size])
                continue
            slot[18] = ttl - 1
            high = slot[20]
            if high < 0xFE:
                slot[20] = high + 1
            else:  # as the kernel's ip_decrease_ttl
                check += 0x100
                check = (check + (check >= 0xFFFF)) & 0xFFFF
                slot[20] = check >> 8
                slot[21] = check & 0xFF
            packet = views[used][VNET : VNET + size]
            if kind != GSO_NONE:
                self._flush()
                self._frame(peer, packet, kind, slot)
                continue
            if flags & NEEDS_CSUM:
                dummy, dummy, dummy, dummy, start, offset = frames.VNET.unpack_from(slot)
                if not frames.complete(packet, start, offset):
                    wires.drops[MALFORMED] += 1
                    continue
            if size > peer.mtu and self._too_big(peer, packet, size):
                continue
            self._add(peer, packet, size)
            used += 1
            if used == _SLOTS:
                self._flush()
                used = 0
        self._flush()
        return not left

    def _add(self, peer: Peer, packet: View, size: int) -> None:
        if peer is not self._peer or self._length != size:
            shorter = peer is self._peer and size < self._length
            if not shorter:
                self._flush()
                self._peer = peer
                self._length = size
            elif self._count:
                self._parts.append(packet)
                self._count += 1
                self._flush()
                return
        self._parts.append(packet)
        self._count += 1
        if self._count == _MOST_SEGMENTS or self._count * self._length > _MOST_BYTES - self._length:
            self._flush()

    def _flush(self) -> None:
        peer = self._peer
        if peer is None or not self._count:
            return
        self._out(peer, self._parts, self._length, self._count)
        self._parts = []
        self._count = 0
        self._peer = None

    # --- frames -----------------------------------------------------------------------------------

    def _frame(self, peer: Peer, packet: View, kind: int, slot: bytearray) -> None:
        size = frames.VNET.unpack_from(slot)[3]
        head = self._header(packet, kind)
        if not head:
            self._wires.drops[MALFORMED] += 1
            return
        if head + size > peer.mtu and self._too_big(peer, packet, head + size):
            return
        if peer.vector and peer.vectors is not None and not peer.vectors.paused:  # type: ignore[attr-defined]
            self._vector(peer, packet, kind, size)
            return
        try:
            cut = frames.cut_udp if kind == GSO_UDP else frames.cut_tcp
            found = cut(packet, size)
        except frames.Malformed:
            self._wires.drops[MALFORMED] += 1
            return
        if found.length > peer.mtu:
            # It may be cut; see _too_big.
            for number in range(0, len(found.parts), 2):
                whole = b"".join(found.parts[number : number + 2])
                for piece in packets.fragments(whole, peer.mtu):
                    self._out(peer, [piece], len(piece), 1)
            return
        self._many(peer, found.parts, found.length, found.count)

    @staticmethod
    def _header(packet: View, kind: int) -> int:
        """Where a frame's payload starts; 0 if it is none."""
        start = (packet[0] & 15) * 4
        if kind == GSO_UDP:
            return start + 8
        if kind & ~GSO_ECN != GSO_TCP4 or len(packet) < start + 20:
            return 0
        return start + (packet[start + 12] >> 4) * 4

    def _vector(self, peer: Peer, packet: View, kind: int, size: int) -> None:
        sending: vector.Sending = peer.vectors  # type: ignore[assignment]
        room = peer.mtu
        number = self._worker | sending.number()
        parts = vector.parts(packet, kind, size, number, room)
        peer.tx_vectors += 1
        self._many(peer, parts, room, len(parts) // 2)

    def _many(self, peer: Peer, parts: list[bytes | View], length: int, count: int) -> None:
        """Datagrams of two parts each, as many calls as they need."""
        most = min(_MOST_SEGMENTS, max(_MOST_BYTES // length, 1))
        if count <= most:
            self._out(peer, parts, length, count)
            return
        for at in range(0, count, most):
            some = parts[2 * at : 2 * (at + most)]
            self._out(peer, some, length, len(some) // 2)

    # --- datagrams --------------------------------------------------------------------------------

    def _out(self, peer: Peer, parts: list[bytes | View], length: int, count: int) -> None:
        """Send ``count`` datagrams of ``length`` bytes (the last may be shorter)."""
        try:
            if count == 1:
                sent = self._send(parts, (), 0, peer.endpoint)
            elif self._gso:
                control = self._controls.get(length)
                if control is None:
                    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", length))]
                    self._controls[length] = control
                sent = self._send(parts, control, 0, peer.endpoint)
            else:
                self._singly(peer, parts, length)
                return
        except OSError as error:
            self._failed(peer, parts, length, count, error)
            return
        peer.tx_packets += count
        peer.tx_bytes += sent

    def _singly(self, peer: Peer, parts: list[bytes | View], length: int) -> None:
        whole = b"".join(parts)
        for at in range(0, len(whole), length):
            self._out(peer, [whole[at : at + length]], length, 1)

    def _failed(
        self, peer: Peer, parts: list[bytes | View], length: int, count: int, error: OSError
    ) -> None:
        if count > 1 and error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE):
            if error.errno == errno.EIO:
                # The interface cannot; from now on without.
                self._gso = False
            self._singly(peer, parts, length)
            return
        if error.errno == errno.EMSGSIZE:
            self._learn_mtu(peer)
            packet = memoryview(bytearray(b"".join(parts)))
            if packet[0] >> 4 == 4 and not self._too_big(peer, packet, len(packet)):
                for piece in packets.fragments(packet, peer.mtu):
                    if len(piece) < len(packet):
                        self._out(peer, [piece], len(piece), 1)
            return
        self._wires.drops[UNSENT] += count

    def _learn_mtu(self, peer: Peer) -> None:
        known = path_mtu(self._wires.settings.listen, peer.endpoint)
        if known:
            mtu = max(known - _UDP_OVERHEAD, _SMALLEST_MTU)
            peer.mtu = min(mtu, self._wires.settings.mtu)
            peer.mtu_until = time.monotonic() + _LEARNT_FOR

    def _too_big(self, peer: Peer, packet: View, size: int) -> bool:
        """Whether what does not fit is dropped, since it must not be cut."""
        if peer.mtu_until and time.monotonic() > peer.mtu_until:
            peer.mtu = self._wires.settings.mtu
            peer.mtu_until = 0.0
            if size <= peer.mtu:
                return False
        if not packet[6] & 0x40:
            return False
        self._wires.drops[TOO_BIG] += 1
        self._wires.complain(
            packets.UNREACHABLE,
            packets.FRAGMENTATION_NEEDED,
            peer.mtu,
            packet,
            time.monotonic(),
        )
        return True

    def _refuse(self, reason: str, packet: View) -> None:
        """Drop a packet of this host, and say why."""
        self._wires.drops[reason] += 1
        if len(packet) < (packet[0] & 15) * 4 or packet[0] & 15 < 5:
            return
        kind, code = packets.UNREACHABLE, packets.NET_UNREACHABLE
        if reason == TTL:
            kind, code = packets.TIME_EXCEEDED, packets.TTL_EXCEEDED
        self._wires.complain(kind, code, 0, packet, time.monotonic())
