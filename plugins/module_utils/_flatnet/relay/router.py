# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table in which packets are looked up: peers by their underlay address and by their subnets.

A look-up costs the same however many peers there are. It is one look into a dictionary of the
destinations seen before. A new destination costs one for each prefix length that there is, at most
33.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator

from ..addresses import ipv4_number
from . import vector_sending

# Destinations that are remembered. With more, all are forgotten, so that a scan cannot fill memory.
_MOST_CACHED = 1 << 16

# Records between two pauses: well under a millisecond.
_AT_A_TIME = 128

# subnet, its length, the peer's address, the vectors it reads
_RECORD = struct.Struct("!IBIB")


class Peer:
    """One host of the network, and counters of what was exchanged with it. It stays as long as its
    address is in the table, whatever else changes."""

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
        # The largest packet that fits in a datagram to it. If that is less than the device's MTU,
        # it was learnt, and is believed until then (monotonic seconds).
        self.mtu = mtu
        self.mtu_until = 0.0
        self.vector = 0
        # None if it is sent no vectors.
        self.vectors: vector_sending.Sending | None = None
        self.tx_packets = self.tx_bytes = self.tx_vectors = 0
        self.rx_packets = self.rx_bytes = self.rx_vectors = 0


def pack(peers: Iterable[tuple[str, str, int]]) -> bytes:
    """Peers (subnet, address, vector) in the form that ``Router.replace`` takes. They were checked
    before."""
    out = bytearray()
    for subnet, address, newest in peers:
        first, dummy, length = subnet.partition("/")
        out += _RECORD.pack(ipv4_number(first), int(length), ipv4_number(address), min(newest, 255))
    return bytes(out)


class Router:
    """``find`` gives the peer for an inner address. ``peers`` has all peers by their address, in
    the form that a socket gives it."""

    def __init__(self, port: int, mtu: int) -> None:
        self._port = port
        self._mtu = mtu
        # This host's subnet as (bits to shift, number). It belongs to no peer, even if a peer's
        # subnet is around it or within it.
        self.own = 32, -1
        self._prefixes: list[tuple[int, dict[int, Peer]]] = []
        self.cache: dict[int, Peer | None] = {}
        self.peers: dict[str, Peer] = {}

    def replace(self, records: bytes) -> list[Peer]:
        """Use another table. Returns the peers that are not in it any more."""
        return next(filter(lambda gone: gone is not None, self.replacing(records))) or []

    def replacing(self, records: bytes) -> Iterator[list[Peer] | None]:
        """Use another table, made a part at a time. After each part comes a None; then packets may
        be carried, by the table before. In the end the new one takes its place at once, and the
        list of the peers comes that are not in it any more."""
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
        """The peer for an inner address, by the longest prefix; None if there is none. Callers look
        into ``cache`` before they call."""
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
