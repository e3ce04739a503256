# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the peers to the device. Every packet is checked: a peer is not trusted."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Callable

from . import frames, packets, vector_format, vector_receiving
from .checksum import total
from .frames import PLAIN, View
from .router import Peer
from .wires import (
    CHECKSUM,
    DESTINATION,
    MALFORMED,
    OVERRUN,
    PARTS,
    REPORTS,
    SOURCE,
    SOURCE_PORT,
    TTL,
    UNKNOWN_PEER,
    Wires,
)

_BUFFER = 1 << 16
# Several, because parts of frames stay in one buffer until the other parts come.
_BUFFERS = 4
# Views of a buffer that are kept: for how many lengths of datagrams, and for which. A peer chooses
# the lengths, and the views of tiny ones would take a hundred megabytes.
_MOST_CUTS = 16
_SHORTEST_CUT = 256
_CONTROL = socket.CMSG_SPACE(4)
# Calls until it is the device's turn.
_BUDGET = 16

# Of the IPv4 header: version and length, length, TTL, checksum, source and destination.
_HEAD = struct.Struct("!BxH4xBxHII")
_INT = struct.Struct("=i")


class _Buffer:
    """What one call receives. ``waits`` are incomplete frames with parts in it."""

    __slots__ = ("_cuts", "bytes", "list", "view", "waits")

    def __init__(self) -> None:
        self.bytes = bytearray(_BUFFER)
        self.view = memoryview(self.bytes)
        self.list = [self.bytes]
        self.waits: list[vector_receiving.Pending] = []
        self._cuts: dict[int, vector_receiving.Pieces] = {}

    def free(self) -> None:
        """Have the incomplete frames copy their parts."""
        for frame in self.waits:
            frame.keep()
        self.waits.clear()

    def pieces(self, start: int, end: int, length: int) -> vector_receiving.Pieces:
        """What follows the vector's header in each datagram."""
        head = vector_format.HEADER.size
        count = -(-(end - start) // length)
        if start or count == 1 or length < _SHORTEST_CUT:
            view = self.view[:end]
            return [view[at + head : at + length] for at in range(start, end, length)]
        # The length is nearly always the same. Then the views exist already.
        cuts = self._cuts.get(length)
        if cuts is None:
            if len(self._cuts) >= _MOST_CUTS:
                self._cuts.clear()
            view = self.view
            cuts = [view[at + head : at + length] for at in range(0, _BUFFER, length)]
            self._cuts[length] = cuts
        found = cuts[:count]
        found[-1] = self.view[(count - 1) * length + head : end]
        return found


class Receiver:
    """One worker's way in. ``forward(worker, peer's address, sent, arrived)`` passes a report to
    another worker of this host, and returns whether there is such a worker."""

    def __init__(
        self, wires: Wires, worker: int, forward: Callable[[int, str, int, int], bool]
    ) -> None:
        self._wires = wires
        self._worker = worker
        self._forward = forward
        self._buffers = [_Buffer() for dummy in range(_BUFFERS)]
        self._turn = 0
        self._uso = wires.queue.uso
        self._waiting = vector_receiving.Waiting()
        # By the address of each peer that sends vectors.
        self._vectors: dict[str, vector_receiving.Receiving] = {}
        self._report_at = 0.0
        self._dropped = wires.socket.dropped()

    def drain(self, idle: bool) -> bool:
        """Take what has come, up to a budget. Returns whether there may be more. ``idle``: there
        was nothing to do before. Then the first datagrams may be all there are, and their answer
        must not wait."""
        wires = self._wires
        receive = wires.socket.udp.recvmsg_into
        peers = wires.router.peers
        port = wires.settings.port
        for dummy in range(_BUDGET):
            buffer = self._buffers[self._turn]
            if buffer.waits:
                buffer.free()
            try:
                size, control, dummy, source = receive(buffer.list, _CONTROL, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            peer = peers.get(source[0])
            length = _INT.unpack(control[0][2])[0] if control else size
            if peer is None or source[1] != port:
                why = SOURCE_PORT if peer else UNKNOWN_PEER
                wires.drops[why] += -(-size // length) if length else 1
                continue
            if not size:
                wires.drops[MALFORMED] += 1
                continue
            peer.rx_bytes += size
            if size <= length:
                peer.rx_packets += 1
                self._run(peer, buffer, 0, size, size)
                if idle:
                    break
                continue
            peer.rx_packets += -(-size // length)
            # Datagrams of one length come together, vectors and others.
            firsts = buffer.bytes[0:size:length]
            vectors = firsts.count(vector_format.MAGIC)
            if vectors in (0, len(firsts)):
                self._run(peer, buffer, 0, size, length)
                if idle:
                    break
                continue
            start = 0
            for number in range(1, len(firsts) + 1):
                if number == len(firsts) or (firsts[number] == vector_format.MAGIC) != (
                    firsts[start] == vector_format.MAGIC
                ):
                    end = min(number * length, size)
                    self._run(peer, buffer, start * length, end, min(length, end - start * length))
                    start = number
        return True

    def _run(self, peer: Peer, buffer: _Buffer, start: int, end: int, length: int) -> None:
        if buffer.bytes[start] == vector_format.MAGIC:
            self._take_vectors(peer, buffer, start, end, length)
            return
        run = buffer.view[start:end]
        if len(run) <= length:
            self._single(peer, run)
            return
        for at, count in frames.runs(run, length, self._uso):
            if count == 1:
                self._single(peer, run[at : at + length])
            else:
                self._joined(peer, run[at : at + count * length], length, count)

    def _single(self, peer: Peer, packet: View) -> None:
        if self._admit(peer, packet):
            self._wires.to_device((PLAIN, packet))

    def _joined(self, peer: Peer, packets_: View, length: int, count: int) -> None:
        # They have the same addresses, so the first one is checked for all.
        if self._admit(peer, packets_[:length], length, count):
            self._wires.to_device(frames.join(packets_, length, count))

    def _admit(self, peer: Peer, packet: View, length: int = 0, count: int = 1) -> bool:
        """Whether the peer may send this packet here; if so, its TTL is lowered by one. ``length``
        is the whole packet's, if this is only its beginning. ``count`` packets are like it."""
        wires = self._wires
        if len(packet) < 20:
            wires.drops[MALFORMED] += 1
            return False
        first, size, ttl, check, source, target = _HEAD.unpack_from(packet)
        header = (first & 15) * 4
        if first >> 4 != 4 or size != (length or len(packet)) or not 20 <= header <= len(packet):
            wires.drops[MALFORMED] += 1
            return False
        if total(packet[:header]):
            wires.drops[CHECKSUM] += count
            return False
        router = wires.router
        sender = router.cache.get(source)
        if sender is None:
            sender = router.find(source)
        if sender is not peer:
            wires.drops[SOURCE] += count
            return False
        if target >> wires.shift != wires.own:
            wires.drops[DESTINATION] += count
            return False
        if ttl <= 1:
            wires.drops[TTL] += count
            wires.complain_to(
                peer.endpoint, packets.TIME_EXCEEDED, packets.TTL_EXCEEDED, packet, time.monotonic()
            )
            return False
        packet[8] = ttl - 1
        check += 0x100
        check = (check + (check >= 0xFFFF)) & 0xFFFF
        packet[10] = check >> 8
        packet[11] = check & 0xFF
        return True

    # --- vectors ----------------------------------------------------------------------------------

    def _take_vectors(self, peer: Peer, buffer: _Buffer, start: int, end: int, length: int) -> None:
        now = time.monotonic()
        if end - start <= length:
            report = vector_format.read_report(buffer.view[start:end])
            if report:
                self._take_report(peer, report, now)
                return
        name = peer.endpoint[0]
        receiving = self._vectors.get(name)
        if receiving is None:
            receiving = self._vectors[name] = vector_receiving.Receiving(self._waiting)
        pieces = buffer.pieces(start, end, length)
        whole, waits, others = receiving.take(buffer.bytes, pieces, start, end, length, now)
        for at, stop in others:
            report = vector_format.read_report(buffer.view[at:stop])
            if report:
                self._take_report(peer, report, now)
            else:
                self._wires.drops[PARTS] += 1
        for stream, parts in whole:
            if self._rejoined(peer, parts):
                stream.arrived += 1
        if waits:
            buffer.waits += waits
            self._turn = (self._turn + 1) % _BUFFERS

    def _rejoined(self, peer: Peer, parts: vector_receiving.Pieces) -> bool:
        """Check a complete frame, and write it to the device. Returns whether the device took
        it."""
        first = parts[0]
        length = sum(map(len, parts)) - vector_format.BEFORE + vector_format.HEADER.size
        made = vector_format.unwrap(first, length)
        if made is None:
            self._wires.drops[MALFORMED] += 1
            return False
        header, start = made
        packet = first[start:]
        if isinstance(packet, bytes):
            packet = memoryview(bytearray(packet))
        if not self._admit(peer, packet, length):
            return False
        peer.rx_vectors += 1
        parts[0] = packet
        return self._wires.to_device([header, *parts])

    def _take_report(self, peer: Peer, report: tuple[int, int, int], now: float) -> None:
        worker, sent, arrived = report
        if peer.vectors is None:
            self._wires.drops[REPORTS] += 1
        elif worker == self._worker:
            peer.vectors.heard(sent, arrived, now)
        elif not self._forward(worker, peer.endpoint[0], sent, arrived):
            self._wires.drops[REPORTS] += 1

    def heard(self, address: str, sent: int, arrived: int, now: float) -> None:
        """Take a report on this worker's vectors that came to another worker."""
        peer = self._wires.router.peers.get(address)
        if peer is not None and peer.vectors is not None:
            peer.vectors.heard(sent, arrived, now)

    def _overrun(self) -> bool:
        """Whether the kernel had no room for datagrams, because this worker was too slow."""
        count = self._wires.socket.dropped()
        more = (count - self._dropped) & 0xFFFFFFFF
        self._dropped = count
        if more:
            self._wires.drops[OVERRUN] += more
        return more > 0

    def tick(self, now: float) -> None:
        """A few times a second: send the peers reports on their vectors."""
        if now < self._report_at:
            return
        self._report_at = now + vector_format.REPORT_EVERY
        overrun = self._overrun()
        peers = self._wires.router.peers
        for name in [name for name in self._vectors if name not in peers]:
            self._vectors.pop(name).close()
        for name, receiving in self._vectors.items():
            receiving.tick(now)
            if overrun:
                receiving.forgive()
            if not peers[name].vector:
                continue  # its lease says that it has no vectors; it may not be a relay of ours
            for report in receiving.reports():
                # A report that is lost does no harm: the next one says as much.
                with contextlib.suppress(OSError):
                    self._wires.socket.udp.sendto(report, socket.MSG_DONTWAIT, peers[name].endpoint)
