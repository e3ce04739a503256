# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker: one process, which carries packets between one queue of the device and one socket.

The main process sends it messages (see ``channel``), and it answers each:

    ("table", digest, records)    use another table; answered when it is in use
    ("status",)                   answered with the counters and the table's digest

It sends nothing else to the main process, so that peers cannot make it wait for that one. What
workers have to tell each other because of peers goes by ``worker_reports``.
"""

from __future__ import annotations

import gc
import select
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from . import packets, vector_sending
from .channel import Channel
from .config import RelaySettings
from .device import Queue, Socket
from .receiver import Receiver
from .router import Peer, Router
from .sender import Sender
from .wires import REPORTS, Wires
from .worker_reports import Box

_TICK = 0.25
# The counters of each peer.
COUNTERS = (
    "tx_packets",
    "tx_bytes",
    "tx_vectors",
    "rx_packets",
    "rx_bytes",
    "rx_vectors",
)


class DeviceGone(Exception):
    """The device was removed."""


class Worker:
    """Carries packets until its channel to the main process closes."""

    def __init__(
        self,
        number: int,
        settings: RelaySettings,
        queue: Queue,
        sock: Socket,
        channel: Channel,
        box: Box | None = None,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._box = box
        self._router = Router(settings.port, settings.mtu)
        self._table = ""
        self._replacing: Iterator[list[Peer] | None] | None = None
        self._wires = Wires(settings, queue, sock, self._router)
        self._sender = Sender(self._wires, number)
        self._receiver = Receiver(self._wires, number, box.put if box else _nobody)
        # The counters of peers that are not in the table any more, so that totals never fall.
        self._retired: Counter[str] = Counter()
        self._next_tick = 0.0

    def run(self) -> None:
        """Carry packets. Raises DeviceGone."""
        poll = select.poll()
        udp, tun, control = (
            self._wires.socket.udp.fileno(),
            self._wires.queue.fileno,
            self._channel.fileno(),
        )
        mail = self._box.fileno() if self._box else -1
        for number in (udp, tun, control, mail):
            if number >= 0:
                poll.register(number, select.POLLIN)
        channel = self._channel
        events = select.POLLIN
        receive, send = self._receiver.drain, self._sender.drain
        busy = False
        # There are no cycles to collect, and looking for them would stop all packets now and then.
        gc.disable()
        try:
            while True:
                ready = dict(poll.poll(0 if busy else _TICK * 1000))
                idle = not busy
                busy = False
                if udp in ready:
                    busy = receive(idle)
                # What was received is often answered at once.
                if tun in ready or udp in ready:
                    busy = send(idle) or busy
                if control in ready and not self._obey():
                    return
                if channel.events != events:
                    events = channel.events
                    poll.register(control, events)
                if mail in ready and self._box:
                    for report in self._box.read():
                        self._receiver.heard(*report, time.monotonic())
                if self._replacing:
                    busy = True
                    self._replace(self._replacing)
                now = time.monotonic()
                if now >= self._next_tick:
                    self._next_tick = now + _TICK
                    self._tick(now)
        except OSError as error:
            if error.errno in packets.GONE:
                raise DeviceGone from None
            raise

    def _tick(self, now: float) -> None:
        self._receiver.tick(now)
        if self._box:
            self._wires.drops[REPORTS] += self._box.send()
        for peer in self._router.peers.values():
            if peer.vectors is not None:
                peer.vectors.tick(now)

    def _obey(self) -> bool:
        self._channel.flush()
        messages = self._channel.hear()
        if messages is None:
            return False
        for what, *values in messages:
            if what == "table":
                self._table, records = values
                self._replacing = self._router.replacing(records)
            elif what == "status":
                self._channel.tell("status", self._status())
        return True

    def _replace(self, steps: Iterator[list[Peer] | None]) -> None:
        """Make the next part of another table."""
        gone = next(steps)
        if gone is None:
            return
        self._replacing = None
        for peer in gone:
            for name in COUNTERS:
                self._retired[name] += getattr(peer, name)
        wanted = self._settings.vector
        self._sender.take_frames(
            wanted and any(peer.vector for peer in self._router.peers.values())
        )
        for peer in self._router.peers.values():
            if not (wanted and peer.vector):
                peer.vectors = None
            elif peer.vectors is None:
                peer.vectors = vector_sending.Sending(time.monotonic())
        self._channel.tell("table")

    def _status(self) -> dict[str, Any]:
        """The status, in plain values. It has only peers with which something was exchanged."""
        wires = self._wires
        totals = Counter(self._retired)
        peers = []
        for name, peer in self._router.peers.items():
            counts = [getattr(peer, each) for each in COUNTERS]
            if any(counts):
                totals.update(dict(zip(COUNTERS, counts)))
                peers.append((name, counts, _mode(peer), peer.mtu))
        return {
            "table": "" if self._replacing else self._table,
            "totals": dict(totals),
            "drops": {reason: count for reason, count in wires.drops.items() if count},
            "icmp_sent": wires.icmp_sent,
            "peers": peers,
        }


def _nobody(*_report: object) -> bool:
    """For a host with one worker: there is no other one that a report could be for."""
    return False


def _mode(peer: Peer) -> str:
    """How frames go to it."""
    sending = peer.vectors
    if not isinstance(sending, vector_sending.Sending):
        return "packets"
    return "packets, fallen back" if sending.paused else "vectors"
