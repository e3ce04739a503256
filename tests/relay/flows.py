# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random flows: what a relay may batch, what it has to pass on singly, what is broken already."""

from __future__ import annotations

import random
import typing as t

from tests.relay.packets import (
    ACK,
    CWR,
    DF,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    URG,
    echo,
    fragments,
    ipv4,
    tcp,
    udp,
)

MTU = 1472
_NOPS = b"\x01" * 4
# Of segments, so that a connection has some of them.
_ODD_FLAGS = [PSH, FIN, FIN | PSH, RST, SYN, URG, ECE, CWR, ECE | CWR, URG | PSH]


class Offloaded(t.NamedTuple):
    """A packet that is longer than the link takes, with ``size`` bytes of payload to a segment."""

    packet: bytes
    size: int


class Flows:
    """Makes them from one address to another; ``odd`` is the share of packets that differ from the
    one before in more than what always does."""

    def __init__(self, seed: int, source: str, destination: str) -> None:
        self.chance = random.Random(seed)
        self.ends = (source, destination)
        self._data = self.chance.randbytes(1 << 17)
        self._port = 1024

    def mixed(self, count: int) -> list[bytes]:
        """Packets of so many flows, in bursts: those of a flow stay in order, but for some."""
        kinds = [self.tcp, self.tcp, self.tcp, self.udp, self.udp, self.others]
        left = [self.chance.choice(kinds)() for dummy in range(count)]
        found: list[bytes] = []
        while left:
            flow = self.chance.choice(left)
            burst = self.chance.choice([1, 2, 5, 50])
            found += flow[:burst]
            del flow[:burst]
            left = [each for each in left if each]
        return found

    def tcp(self) -> list[bytes]:
        """Segments of one connection."""
        chance = self.chance
        odd = chance.choice([0, 0, 0.02, 0.1, 0.5])
        ports = self._ports()
        options = chance.choice([b"", b"", self._stamps(), self._stamps(), self._sack()])
        ip_options = chance.choice([b""] * 9 + [_NOPS])
        size = self._size(MTU - 40 - len(options) - len(ip_options))
        sequence = chance.choice([chance.randrange(1 << 32), (1 << 32) - 3 * size])
        ident = chance.choice([0, chance.randrange(65536), 65533])
        step = chance.choice([1, 1, 1, 0, 7])
        ip = self._ip()
        ack, window = chance.randrange(1 << 32), chance.randrange(65536)
        found = []
        for dummy in range(chance.randrange(1, 60)):
            length, flags, urgent, spoil = size, ACK, 0, 0
            kind = chance.randrange(12) if chance.random() < odd else None
            if kind == 0:
                length = chance.randrange(0, size + 1)
            elif kind == 1:
                flags |= chance.choice(_ODD_FLAGS)
                urgent = chance.randrange(size + 1)
            elif kind == 2 and options:
                options = self._stamps() if len(options) == 12 else self._sack()
            elif kind == 3:
                window = chance.randrange(65536)
            elif kind == 4:
                ack = (ack + chance.randrange(99999)) & 0xFFFFFFFF
            elif kind == 5:
                ip["tos"] ^= 1
            elif kind == 6:
                sequence += chance.choice([size, -size, 1])
            elif kind == 7:
                spoil = self._spoil()
            elif kind == 8:
                ip["ttl"] ^= 1
            elif kind == 9:
                ip["frag"] ^= DF
            elif kind == 10:
                flags = chance.choice([0, PSH, URG, 0xFF, FIN, SYN])
            elif kind == 11:
                ident += chance.randrange(9)
            found.append(
                tcp(
                    *self.ends,
                    *ports,
                    sequence,
                    self._bytes(length),
                    ack=ack,
                    window=window,
                    flags=flags,
                    urgent=urgent,
                    spoil=spoil,
                    options=options,
                    ident=ident & 0xFFFF,
                    **ip,
                    **({"ip_options": ip_options} if ip_options else {}),
                )
            )
            sequence += length
            ident += step
        return self._disordered(found)

    def udp(self) -> list[bytes]:
        """Datagrams between two ports."""
        chance = self.chance
        odd = chance.choice([0, 0, 0.05, 0.5])
        ports = self._ports()
        options = chance.choice([b""] * 9 + [_NOPS])
        size = self._size(MTU - 28 - len(options))
        ident = chance.choice([0, chance.randrange(65536), 65533])
        summed = chance.random() < 0.8
        ip = self._ip()
        found = []
        for dummy in range(chance.randrange(1, 40)):
            length, spoil = size, 0
            kind = chance.randrange(6) if chance.random() < odd else None
            if kind == 0:
                length = chance.randrange(0, size + 1)
            elif kind == 1:
                spoil = self._spoil()
            elif kind == 2:
                ident += chance.randrange(9)
            elif kind == 3:
                ip["tos"] ^= 1
            elif kind == 4:
                ip["frag"] ^= DF
            elif kind == 5:
                summed = not summed
            found.append(
                udp(
                    *self.ends,
                    *ports,
                    self._bytes(length),
                    summed=summed,
                    spoil=spoil,
                    ident=ident & 0xFFFF,
                    options=options,
                    **ip,
                )
            )
            ident += 1
        return self._disordered(found)

    def others(self) -> list[bytes]:
        """What nobody can batch."""
        chance = self.chance
        kind = chance.randrange(4)
        if kind == 0:
            return [
                echo(*self.ends, number, self._bytes(chance.randrange(1444)), **self._ip())
                for number in range(chance.randrange(1, 10))
            ]
        if kind == 1:
            protocol = chance.choice([2, 47, 50, 132, 255])
            return [
                ipv4(*self.ends, protocol, self._bytes(chance.randrange(1400)), **self._ip())
                for dummy in range(chance.randrange(1, 10))
            ]
        length = chance.randrange(1500, 6000)
        whole = udp(*self.ends, *self._ports(), self._bytes(length), ident=self._port, frag=0)
        if kind == 3:
            whole = tcp(
                *self.ends, *self._ports(), 1, self._bytes(length), ident=self._port, frag=0
            )
        return self._disordered(fragments(whole, chance.choice([MTU, 576, 1001])))

    def offloaded(self) -> Offloaded:
        """As a pod's kernel hands TCP or UDP to a device that can cut it."""
        chance = self.chance
        ip = {**self._ip(), "ident": chance.choice([0, 65530, chance.randrange(65536)])}
        ip["ttl"] = max(ip["ttl"], 9)
        if chance.random() < 0.25:
            size = self._size(MTU - 28)
            length = min(size * chance.randrange(1, 60) + chance.randrange(1, size + 1), 65000)
            return Offloaded(udp(*self.ends, *self._ports(), self._bytes(length), **ip), size)
        options = chance.choice([b"", self._stamps(), self._stamps(), self._sack(), _NOPS * 10])
        size = self._size(MTU - 40 - len(options))
        length = min(size * chance.randrange(1, 60) + chance.randrange(1, size + 1), 65000)
        flags = ACK | chance.choice([0, PSH, FIN, FIN | PSH, ECE, CWR, CWR | ECE | PSH])
        packet = tcp(
            *self.ends,
            *self._ports(),
            chance.choice([chance.randrange(1 << 32), (1 << 32) - length // 2]),
            self._bytes(length),
            ack=chance.randrange(1 << 32),
            window=chance.randrange(65536),
            flags=flags,
            options=options,
            **ip,
        )
        return Offloaded(packet, size)

    # --- parts ------------------------------------------------------------------------------------

    def _disordered(self, found: list[bytes]) -> list[bytes]:
        """Sometimes with packets that come late, twice or not at all."""
        chance = self.chance
        if chance.random() < 0.5:
            return found
        for dummy in range(max(len(found) // 8, 1)):
            if not found:
                break
            at = chance.randrange(len(found))
            packet = found.pop(at)
            where = [at, chance.randrange(len(found) + 1)]
            for place in where[: chance.randrange(3)][::-1]:
                found.insert(place, packet)
        return found

    def _ip(self) -> dict[str, int]:
        chance = self.chance
        return {
            "tos": chance.choice([0, 0, 2, 0x48]),
            "frag": chance.choice([DF, DF, 0]),
            "ttl": chance.choice([64, 64, 8, 255]),
        }

    def _size(self, most: int) -> int:
        chance = self.chance
        return chance.choice([most, most, most - 1, 1, 2, 7, 536, 537, chance.randint(1, most)])

    def _ports(self) -> tuple[int, int]:
        """Of a flow that was not there before."""
        self._port += 1
        return self._port, self.chance.randrange(1, 65536)

    def _spoil(self) -> int:
        """0xFFFF turns a checksum of 0 to all ones, which is the same: not that."""
        return self.chance.choice([1, 0x8000, 0xFF00, self.chance.randrange(1, 65535)])

    def _stamps(self) -> bytes:
        return b"\x01\x01\x08\x0a" + self.chance.randbytes(8)

    def _sack(self) -> bytes:
        return b"\x01\x01\x05\x0a" + self.chance.randbytes(8) + self._stamps()

    def _bytes(self, length: int) -> bytes:
        at = self.chance.randrange(len(self._data) - length)
        return self._data[at : at + length]
