# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the device to the peers.

Packets to one peer are sent in batches. All packets of a batch have one length, only the last may
be shorter. That is what one sendmsg with UDP_SEGMENT takes.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from . import frames, packets, vector_format, vector_sending
from .device import SOL_UDP, UDP_SEGMENT, VNET, path_mtu
from .frames import GSO_ECN, GSO_NONE, GSO_TCP4, GSO_UDP, NEEDS_CSUM, View
from .router import Peer
from .wires import MALFORMED, NO_ROUTE, NOT_IPV4, TOO_BIG, TTL, UNSENT, Wires

_SLOTS = 64
_LARGEST = 65535
# Reads of the device until it is the socket's turn.
_BUDGET = 64
_MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS before Linux 6.9
_MOST_BYTES = 65507
_UDP_OVERHEAD = 28
_LEARNT_FOR = 600.0  # seconds that a path's MTU is believed, as many as in the kernel
_SMALLEST_MTU = 68

# Where a packet begins in a slot: behind the virtio header and the headers of a vector.
_BEGIN = VNET + vector_format.BEFORE
# The virtio header's flags and GSO type; then version and length of the IPv4 header, length, TTL,
# checksum and destination.
_HEAD = struct.Struct("!BB20xBxH4xBxH4xI")


class _Slot:
    """A buffer into which a packet or a frame is read, and from which it is sent.

    If frames are wanted, they are read in ``pieces``, with room before each for the header of a
    vector's datagram. So the slot holds the datagrams one after the other. Otherwise a packet is
    read into ``whole``, in one piece.
    """

    __slots__ = ("buffer", "pieces", "view", "whole")

    def __init__(self, room: int) -> None:
        content = room - vector_format.HEADER.size
        count = -(-(_LARGEST + vector_format.BEFORE) // content)
        self.buffer = bytearray(VNET + max(count * room, vector_format.BEFORE + _LARGEST))
        self.view = memoryview(self.buffer)
        self.whole = (self.view[:VNET], self.view[_BEGIN:])
        self.pieces: tuple[View, ...] = ()

    def split(self, room: int) -> None:
        """Prepare for frames in pieces. Packets that were read have overwritten the headers."""
        self.pieces = (self.view[:VNET], *vector_format.prepare(self.buffer, VNET, room))

    def packet(self, size: int, split: bool) -> View:
        """The packet of ``size`` bytes that was read, joined to one piece if it was ``split``."""
        if not split or size <= len(self.pieces[1]):
            return self.view[_BEGIN : _BEGIN + size]
        whole = bytearray().join(self.pieces[1:])
        del whole[size:]
        return memoryview(whole)


class Sender:
    """One worker's way out. The number of the ``worker`` is in its vectors."""

    def __init__(self, wires: Wires, worker: int) -> None:
        self._wires = wires
        self._worker = worker << 24
        self._gso = wires.socket.gso
        self._send = wires.socket.udp.sendmsg
        self._room = wires.settings.mtu
        self._slots = [_Slot(self._room) for dummy in range(_SLOTS)]
        self._split = False
        self._controls: dict[int, list[tuple[int, int, bytes]]] = {}
        # The batch.
        self._peer: Peer | None = None
        self._parts: list[bytes | View] = []
        self._length = 0
        self._count = 0

    def take_frames(self, wanted: bool) -> None:
        """Have the device give frames if there are peers that get them as vectors, else packets.
        Python is slower than the kernel at cutting frames and at checksums over their payload."""
        wanted = wanted and self._room >= vector_format.SMALLEST_ROOM
        if wanted and not self._split:
            for slot in self._slots:
                slot.split(self._room)
        self._split = wanted
        self._wires.queue.ask_for_frames(wanted)

    def drain(self, idle: bool) -> bool:
        """Take what the device has, up to a budget. Returns whether there may be more. ``idle``:
        there was nothing to do before, so the first packet does not wait for others."""
        slots = self._slots
        wires = self._wires
        cache = wires.router.cache
        fileno = wires.queue.fileno
        split = self._split
        unpack = _HEAD.unpack_from
        readv = os.readv
        used = 0
        left = _BUDGET
        while left:
            left -= 1
            slot = slots[used]
            buffer = slot.buffer
            try:
                size = readv(fileno, slot.pieces if split else slot.whole) - VNET
            except BlockingIOError:
                break
            flags, kind, first, length, ttl, check, target = unpack(buffer)
            if first >> 4 != 4:
                wires.drops[NOT_IPV4] += 1
                continue
            if size != length or size < 20 or not 5 <= first & 15 <= size >> 2:
                wires.drops[MALFORMED] += 1
                continue
            peer = cache.get(target)
            if peer is None:
                peer = wires.router.find(target)
                if peer is None:
                    self._refuse(NO_ROUTE, slot.packet(size, split))
                    continue
            if ttl <= 1:
                self._refuse(TTL, slot.packet(size, split))
                continue
            buffer[_BEGIN + 8] = ttl - 1
            high = buffer[_BEGIN + 10]
            if high < 0xFE:
                buffer[_BEGIN + 10] = high + 1
            else:  # as the kernel's ip_decrease_ttl
                check += 0x100
                check = (check + (check >= 0xFFFF)) & 0xFFFF
                buffer[_BEGIN + 10] = check >> 8
                buffer[_BEGIN + 11] = check & 0xFF
            if kind != GSO_NONE:
                self._flush()
                self._frame(peer, slot, size, kind)
                continue
            packet = slot.packet(size, split)
            if flags & NEEDS_CSUM:
                dummy, dummy, dummy, dummy, start, offset = frames.VNET.unpack_from(buffer)
                if not frames.complete(packet, start, offset):
                    wires.drops[MALFORMED] += 1
                    continue
            if size > peer.mtu and self._too_big(peer, packet, size):
                continue
            self._add(peer, packet, size)
            used += 1
            if used == _SLOTS or idle:
                self._flush()
                used = 0
                idle = False
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
        if self._count == _MOST_SEGMENTS or (self._count + 1) * self._length > _MOST_BYTES:
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

    def _frame(self, peer: Peer, slot: _Slot, size: int, kind: int) -> None:
        payload = frames.VNET.unpack_from(slot.buffer)[3]
        head = self._header(slot.buffer, size, kind)
        if not head:
            self._wires.drops[MALFORMED] += 1
            return
        sending = peer.vectors
        if sending is not None and not sending.paused and peer.mtu == self._room:
            self._vector(peer, sending, slot, size, kind, payload)
            return
        packet = slot.packet(size, self._split)
        if head + payload > peer.mtu and self._too_big(peer, packet, head + payload):
            return
        try:
            found = (frames.cut_udp if kind == GSO_UDP else frames.cut_tcp)(packet, payload)
        except frames.Malformed:
            self._wires.drops[MALFORMED] += 1
            return
        if found.length > peer.mtu:
            # Its packets may be cut, since _too_big has let it pass.
            for number in range(0, len(found.parts), 2):
                whole = b"".join(found.parts[number : number + 2])
                for piece in packets.fragments(whole, peer.mtu):
                    self._out(peer, [piece], len(piece), 1)
            return
        most = self._most(found.length)
        for at in range(0, found.packets, most):
            some = found.parts[2 * at : 2 * (at + most)]
            self._out(peer, some, found.length, len(some) // 2)

    @staticmethod
    def _header(buffer: bytearray, size: int, kind: int) -> int:
        """Where the payload of the frame in a slot begins, counted from the packet; 0 if it is no
        frame."""
        start = (buffer[_BEGIN] & 15) * 4
        if kind == GSO_UDP:
            head = start + 8
        elif kind & ~GSO_ECN == GSO_TCP4 and size >= start + 20:
            head = start + (buffer[_BEGIN + start + 12] >> 4) * 4
        else:
            return 0
        return head if head < size else 0

    def _vector(
        self,
        peer: Peer,
        sending: vector_sending.Sending,
        slot: _Slot,
        size: int,
        kind: int,
        payload: int,
    ) -> None:
        room = self._room
        number = self._worker | sending.number()
        count, end = vector_format.wrap(slot.buffer, VNET, room, size, kind, payload, number)
        peer.tx_vectors += 1
        most = self._most(room)
        at = VNET
        while count > 0:
            stop = min(at + most * room, end)
            self._out(peer, [slot.view[at:stop]], room, min(count, most))
            at = stop
            count -= most

    @staticmethod
    def _most(length: int) -> int:
        """How many datagrams of this length fit in one call."""
        return min(_MOST_SEGMENTS, max(_MOST_BYTES // length, 1))

    # --- datagrams --------------------------------------------------------------------------------

    def _out(self, peer: Peer, parts: list[bytes | View], length: int, count: int) -> None:
        """Send ``count`` datagrams of ``length`` bytes, of which the last may be shorter."""
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
                # The interface cannot do it, so datagrams are sent one by one from now on.
                self._gso = False
            self._singly(peer, parts, length)
            return
        if error.errno == errno.EMSGSIZE:
            self._learn_mtu(peer)
            packet = memoryview(bytearray(b"".join(parts)))
            if packet[0] >> 4 != 4:
                self._wires.drops[TOO_BIG] += 1
            elif not self._too_big(peer, packet, len(packet)):
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
        """Whether a packet that does not fit is dropped, because it must not be cut."""
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
        """Drop a packet of this host, and answer with an ICMP error."""
        self._wires.drops[reason] += 1
        if len(packet) < (packet[0] & 15) * 4 or packet[0] & 15 < 5:
            return
        kind, code = packets.UNREACHABLE, packets.NET_UNREACHABLE
        if reason == TTL:
            kind, code = packets.TIME_EXCEEDED, packets.TTL_EXCEEDED
        self._wires.complain(kind, code, 0, packet, time.monotonic())
