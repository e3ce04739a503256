# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that packets are looked up in: peers by their underlay address and by their subnets.

A look-up costs the same however many peers there are: one in a dictionary of destinations seen
before, and for a new one as many as there are different prefix lengths, 33 at most.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator

from ..addresses import ipv4_number
from . import vector_sending

# Destinations remembered; then it starts over, so that a scan cannot take the memory.
_MOST_CACHED = 1 << 16

# Records between two pauses: well under a millisecond.
_AT_A_TIME = 128

# subnet, its length, the peer's address, the vectors it reads
_RECORD = struct.Struct("!IBIB")


class Peer:
    """One host of the network, and what was exchanged with it. Lives as long as its address is in
    a table, whatever else changes."""

    __slots__ = (
        "address",
        "endpoint",
        "mtu",
        "mtu_until",
        "rx_bytes",
        "rx_packets",
        "rx_vectors",
        "tx_bytes",
        "tx_packets",
        "tx_vectors",
        "vector",
        "vectors",
    )

    def __init__(self, address: int, port: int, mtu: int) -> None:
        self.address = address
        self.endpoint = (socket.inet_ntoa(address.to_bytes(4, "big")), port)
        # The largest packet that fits in a datagram to it, and until when that was learnt to be
        # less than the device's (monotonic seconds).
        self.mtu = mtu
        self.mtu_until = 0.0
        self.vector = 0
        # How vectors to it fare: vector_sending.Sending while it is sent any.
        self.vectors: vector_sending.Sending | None = None
        self.tx_packets = self.tx_bytes = self.tx_vectors = 0
        self.rx_packets = self.rx_bytes = self.rx_vectors = 0


def pack(peers: Iterable[tuple[str, str, int]]) -> bytes:
    """Checked peers (subnet, address, vector) as ``Router.replace`` takes them."""
    out = bytearray()
    for subnet, address, newest in peers:
        first, dummy, length = subnet.partition("/")
        out += _RECORD.pack(ipv4_number(first), int(length), ipv4_number(address), min(newest, 255))
    return bytes(out)


class Router:
    """``find``: the peer for an inner address, None if there is none. ``peers``: by address, in the
    form that a socket gives it."""

    def __init__(self, port: int, mtu: int) -> None:
        self._port = port
        self._mtu = mtu
        # This host's subnet as (bits to shift, number): no peer's, whatever subnets peers have
        # around it or within.
        self.own = 32, -1
        self._prefixes: list[tuple[int, dict[int, Peer]]] = []
        self.cache: dict[int, Peer | None] = {}
        self.peers: dict[str, Peer] = {}

    def replace(self, records: bytes) -> list[Peer]:
        """Take another table; the peers that are in it no longer."""
        return next(filter(lambda gone: gone is not None, self.replacing(records))) or []

    def replacing(self, records: bytes) -> Iterator[list[Peer] | None]:
        """Take another table. It is made a part at a time, with pauses in which packets are carried
        as before, and takes the old one's place at once; then the one list comes, of the peers that
        are in it no longer."""
        prefixes: dict[int, dict[int, Peer]] = {}
        known = {peer.address: peer for peer in self.peers.values()}
        vectors: dict[str, int] = {}
        kept: dict[str, Peer] = {}
        for number, (subnet, length, address, newest) in enumerate(_RECORD.iter_unpack(records)):
            peer = known.get(address)
            if peer is None:
                peer = known[address] = Peer(address, self._port, self._mtu)
            name = peer.endpoint[0]
            kept[name] = peer
            vectors[name] = newest
            prefixes.setdefault(32 - length, {})[subnet >> (32 - length)] = peer
            if number % _AT_A_TIME == 0:
                yield None
        gone = [peer for name, peer in self.peers.items() if name not in kept]
        for name, newest in vectors.items():
            kept[name].vector = newest
        self.cache = {}
        self.peers = kept
        self._prefixes = sorted(prefixes.items())
        yield gone

    def find(self, address: int) -> Peer | None:
        """Longest prefix first. Callers look in ``cache`` themselves before they call."""
        found = None
        bits, own = self.own
        for shift, subnets in self._prefixes if address >> bits != own else ():
            found = subnets.get(address >> shift)
            if found is not None:
                break
        if len(self.cache) >= _MOST_CACHED:
            self.cache.clear()
        self.cache[address] = found
        return found
