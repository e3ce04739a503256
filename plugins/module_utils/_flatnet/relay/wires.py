# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two directions of one worker share: counters, the way to the device, ICMP."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Sequence

from . import packets
from .config import RelaySettings
from .device import Queue, Socket
from .frames import PLAIN, View
from .router import Router

# Why packets are dropped.
UNKNOWN_PEER = "unknown_peer"  # a datagram from an address that is no peer
SOURCE_PORT = "source_port"  # from a peer's address, but another program there sent it
MALFORMED = "malformed"  # not IPv4, or its header does not fit the packet
CHECKSUM = "checksum"  # of the IPv4 header
SOURCE = "source"  # the inner source does not belong to the sending peer
DESTINATION = "destination"  # the inner destination is not this host's
NO_ROUTE = "no_route"  # no peer has the inner destination
TTL = "ttl"
TOO_BIG = "too_big"  # for the path, and must not be cut
NOT_IPV4 = "not_ipv4"  # from this host's own kernel, such as IPv6's router solicitations
UNSENT = "unsent"  # the kernel refused the datagram
REFUSED = "refused"  # the kernel refused the packet
PARTS = "parts"  # datagrams of vectors that make no sense
OVERRUN = "overrun"  # the kernel had no room to keep the datagram for this worker
REPORTS = "reports"  # on vectors that nobody has sent, or more than can be passed on

_ERRORS_A_SECOND, _ERRORS_AT_ONCE = 100, 50


class Wires:
    """A worker's queue of the device and its socket, and what both directions need.

    ``own >> shift`` is this host's subnet. ICMP errors to this host come from the network's first
    address, which belongs to no host: the kernel refuses a packet from its own address, which the
    device's is.
    """

    def __init__(self, settings: RelaySettings, queue: Queue, sock: Socket, router: Router) -> None:
        self.settings = settings
        self.queue = queue
        self.socket = sock
        self.router = router
        subnet = ipaddress.IPv4Network(settings.subnet)
        self.shift = 32 - subnet.prefixlen
        self.own = int(subnet.network_address) >> self.shift
        router.own = self.shift, self.own
        self.address = int(ipaddress.IPv4Address(settings.address))
        self.overlay = int(ipaddress.IPv4Network(settings.network).network_address)
        self.drops: Counter[str] = Counter()
        self.icmp_sent = 0
        self._limiter = packets.Limiter(_ERRORS_A_SECOND, _ERRORS_AT_ONCE)

    def to_device(self, parts: Sequence[bytes | View]) -> bool:
        """Write a virtio header and a packet to the device. Returns whether the kernel took
        them."""
        try:
            os.writev(self.queue.fileno, parts)
        except OSError as error:
            if error.errno in packets.GONE:
                raise
            self.drops[REFUSED] += 1
            return False
        return True

    def complain(
        self, kind: int, code: int, rest: int, packet: bytes | bytearray | View, now: float
    ) -> None:
        """Answer a packet of this host with an ICMP error."""
        answer = packets.icmp_error(kind, code, rest, self.overlay, packet)
        if answer and self._limiter.allows(now):
            self.icmp_sent += 1
            self.to_device((PLAIN, answer))

    def complain_to(
        self, endpoint: tuple[str, int], kind: int, code: int, packet: View, now: float
    ) -> None:
        """Answer a packet that came from a peer."""
        answer = packets.icmp_error(kind, code, 0, self.address, packet)
        if answer and self._limiter.allows(now):
            self.icmp_sent += 1
            try:
                self.socket.udp.sendto(answer, socket.MSG_DONTWAIT, endpoint)
            except OSError:
                self.drops[UNSENT] += 1
