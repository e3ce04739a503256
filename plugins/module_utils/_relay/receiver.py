# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the peers to the device: nothing is believed that was not checked."""

from __future__ import annotations

import socket
import struct
import time
from typing import Callable

from . import frames, packets, vector
from .checksum import total
from .frames import PLAIN, View
from .router import Peer
from .wires import (
    CHECKSUM,
    DESTINATION,
    MALFORMED,
    PARTS,
    SOURCE,
    TTL,
    UNKNOWN_PEER,
    Wires,
)

_BUFFER = 1 << 16
_CONTROL = socket.CMSG_SPACE(4)
# Calls before the device has its turn.
_BUDGET = 16

# IPv4's header, or the first of its fields.
_HEAD = struct.Struct("!BBHHHBBHII")
_INT = struct.Struct("=i")


class Receiver:
    """One worker's way in. ``forward`` is given reports that are for another worker of this host:
    (worker, peer's address, sent, arrived)."""

    def __init__(
        self, wires: Wires, worker: int, forward: Callable[[int, str, int, int], None]
    ) -> None:
        self._wires = wires
        self._worker = worker
        self._forward = forward
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._uso = wires.queue.uso
        self._waiting = vector.Waiting()
        # Peers that send vectors.
        self._vectors: dict[str, vector.Receiving] = {}
        self._report_at = 0.0

    def drain(self) -> bool:
        """Take what has come, up to a budget; whether there may be more."""
        wires = self._wires
        receive = wires.socket.udp.recvmsg_into
        peers = wires.router.peers
        buffer = self._buffer
        buffers = (buffer,)
        view = self._view
        for dummy in range(_BUDGET):
            try:
                size, control, dummy, source = receive(buffers, _CONTROL, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            peer = peers.get(source[0])
            length = _INT.unpack(control[0][2])[0] if control else size
            if peer is None:
                wires.drops[UNKNOWN_PEER] += -(-size // length) if length else 1
                continue
            if not size:
                wires.drops[MALFORMED] += 1
                continue
            peer.rx_bytes += size
            if size <= length:
                peer.rx_packets += 1
                self._run(peer, view[:size], size)
                continue
            peer.rx_packets += -(-size // length)
            # Datagrams of one length that came together need not be of one kind.
            firsts = buffer[0:size:length]
            vectors = firsts.count(vector.MAGIC)
            if vectors in (0, len(firsts)):
                self._run(peer, view[:size], length)
                continue
            start = 0
            for number in range(1, len(firsts) + 1):
                if number == len(firsts) or (firsts[number] == vector.MAGIC) != (
                    firsts[start] == vector.MAGIC
                ):
                    run = view[start * length : min(number * length, size)]
                    self._run(peer, run, min(length, len(run)))
                    start = number
        return True

    def _run(self, peer: Peer, run: View, length: int) -> None:
        if run[0] == vector.MAGIC:
            self._take_vectors(peer, run, length)
        elif len(run) <= length:
            self._single(peer, run)
        else:
            for at, count in frames.runs(run, length, self._uso):
                if count == 1:
                    self._single(peer, run[at : at + length])
                else:
                    self._joined(peer, run[at : at + count * length], length, count)

    def _single(self, peer: Peer, packet: View) -> None:
        if self._admit(peer, packet):
            self._wires.to_device((PLAIN, packet))

    def _joined(self, peer: Peer, packets_: View, length: int, count: int) -> None:
        # They are alike, so the first speaks for all.
        if self._admit(peer, packets_[:length]):
            self._wires.to_device(frames.join(packets_, length, count))

    def _admit(self, peer: Peer, packet: View, length: int = 0) -> bool:
        """Whether the peer may send this packet here, and takes one from its TTL. ``length``: of
        the whole packet, if this is only its start."""
        wires = self._wires
        if len(packet) < 20:
            wires.drops[MALFORMED] += 1
            return False
        first, dummy, size, dummy, dummy, ttl, dummy, check, source, target = _HEAD.unpack_from(
            packet
        )
        header = (first & 15) * 4
        if first >> 4 != 4 or size != (length or len(packet)) or not 20 <= header <= len(packet):
            wires.drops[MALFORMED] += 1
            return False
        if total(packet[:header]):
            wires.drops[CHECKSUM] += 1
            return False
        router = wires.router
        sender = router.cache.get(source)
        if sender is None:
            sender = router.find(source)
        if sender is not peer:
            wires.drops[SOURCE] += 1
            return False
        if target >> wires.shift != wires.own:
            wires.drops[DESTINATION] += 1
            return False
        if ttl <= 1:
            wires.drops[TTL] += 1
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

    def _take_vectors(self, peer: Peer, run: View, length: int) -> None:
        now = time.monotonic()
        report = vector.read_report(run) if len(run) <= length else None
        if report:
            self._take_report(peer, report, now)
            return
        name = peer.endpoint[0]
        receiving = self._vectors.get(name)
        if receiving is None:
            receiving = self._vectors[name] = vector.Receiving(self._waiting)
        whole, bad = receiving.take(run, length, now)
        self._wires.drops[PARTS] += bad
        for parts in whole:
            self._rejoined(peer, parts)

    def _rejoined(self, peer: Peer, parts: list[View | bytes]) -> None:
        first = parts[0]
        size = sum(map(len, parts))
        if len(first) < 24:
            self._wires.drops[MALFORMED] += 1
            return
        length = first[6] << 8 | first[7]
        made = vector.unwrap(first, length, size)
        if made is None:
            self._wires.drops[MALFORMED] += 1
            return
        header, start = made
        packet = memoryview(bytearray(first[start:]))
        if self._admit(peer, packet, length):
            peer.rx_vectors += 1
            self._wires.to_device((header, packet, *parts[1:]))

    def _take_report(self, peer: Peer, report: tuple[int, int, int], now: float) -> None:
        worker, sent, arrived = report
        if worker == self._worker:
            self.heard(peer.endpoint[0], sent, arrived, now)
        else:
            self._forward(worker, peer.endpoint[0], sent, arrived)

    def heard(self, address: str, sent: int, arrived: int, now: float) -> None:
        """A report on this worker's vectors."""
        peer = self._wires.router.peers.get(address)
        if peer is not None and isinstance(peer.vectors, vector.Sending):
            peer.vectors.heard(sent, arrived, now)

    def tick(self, now: float) -> None:
        """A few times a second: tell peers how their vectors fare."""
        if now < self._report_at:
            return
        self._report_at = now + vector.REPORT_EVERY
        peers = self._wires.router.peers
        for name in [name for name in self._vectors if name not in peers]:
            self._vectors.pop(name).close()
        for name, receiving in self._vectors.items():
            receiving.tick(now)
            for report in receiving.reports():
                try:
                    self._wires.socket.udp.sendto(
                        report, socket.MSG_DONTWAIT, peers[name].endpoint
                    )
                except OSError:
                    pass  # the next one tells as much
