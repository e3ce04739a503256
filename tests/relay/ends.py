# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host that carries packets, its pod's packets as they are, and a peer's end of its wire."""

from __future__ import annotations

import contextlib
import typing as t

from tests.lab import Lab
from tests.relay.flows import Offloaded
from tests.relay.hosts import PORT, Fleet, Peer, RelayHost
from tests.relay.packets import UDP, head, partial
from tests.relay.sockets import GSO_ECN, GSO_TCP4, GSO_UDP_L4, Frames, Wire, silence

HERE, THERE = "10.5.1.9", "10.5.2.9"


class Ends(t.NamedTuple):
    host: RelayHost
    pod: Frames
    mac: bytes
    wire: Wire

    def out(self, *found: bytes | Offloaded, count: int | None = None) -> list[bytes]:
        """What is on the wire of packets that the pod sends; as many, unless told otherwise."""
        for packet in found:
            send(self.pod, packet, self.mac)
        return self.wire.received(len(found) if count is None else count)

    def clear(self) -> None:
        self.pod.clear()
        self.wire.clear()


def send(pod: Frames, packet: bytes | Offloaded, mac: bytes) -> None:
    if not isinstance(packet, Offloaded):
        pod.send(packet, mac)
        return
    raw, size = packet
    if len(raw) - head(raw) <= size:
        pod.send(partial(raw), mac, partial=True)
        return
    gso = GSO_UDP_L4 if raw[9] == UDP else GSO_TCP4
    if gso == GSO_TCP4 and raw[(raw[0] & 15) * 4 + 13] & 0x80:
        gso |= GSO_ECN
    pod.send(partial(raw), mac, gso, size, head(raw))


@contextlib.contextmanager
def ends(lab: Lab, kind: str, **settings: t.Any) -> t.Iterator[Ends]:
    """The first of two hosts has a relay, or is ``plain``; the second is its wire's other end."""
    with Fleet(lab, relays=1) as fleet:
        host, there = fleet.hosts[0], fleet.bare[0]
        peers = [Peer("10.5.2.0/24", there.address)]
        if kind == "plain":
            host.start_plain(peers)
        else:
            host.start_relay(peers, **settings)
        host.segmented()
        silence(host.pod)
        with Frames(host.pod) as pod, Wire(there, PORT, host.address) as wire:
            yield Ends(host, pod, host.mac(), wire)
