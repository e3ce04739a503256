# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What should come of a packet, told independently; and ways to spoil one."""

from __future__ import annotations

import ipaddress
import random
import struct
import typing as t

from tests.relay.packets import checksum

Table = t.Mapping[str, str]  # subnets and the addresses of their hosts


def owner(table: Table, address: bytes) -> str | None:
    """Whose subnet the address is in, by the longest prefix."""
    found = [
        (ipaddress.IPv4Network(subnet).prefixlen, host)
        for subnet, host in table.items()
        if ipaddress.IPv4Address(address) in ipaddress.IPv4Network(subnet)
    ]
    return max(found)[1] if found else None


def sound(packet: bytes) -> bool:
    """A whole IPv4 packet and nothing else."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return False
    length = (packet[0] & 15) * 4
    return 20 <= length <= len(packet) == struct.unpack_from("!H", packet, 2)[0]


class Judge:
    """Decides for a host with a subnet and peers."""

    def __init__(self, own: str, table: Table) -> None:
        self._own = ipaddress.IPv4Network(own)
        self._table = table
        self._owners: dict[bytes, str | None] = {}

    def owner(self, address: bytes) -> str | None:
        if address not in self._owners:
            if len(self._owners) > 1000:
                self._owners.clear()
            self._owners[address] = owner(self._table, address)
        return self._owners[address]

    def delivers(self, packet: bytes, sender: str) -> bool:
        """Whether this packet from that peer is to be given to the device."""
        if not sound(packet) or sender not in self._table.values():
            return False
        return (
            checksum(packet[: (packet[0] & 15) * 4]) == 0
            and self.owner(packet[12:16]) == sender
            and ipaddress.IPv4Address(packet[16:20]) in self._own
            and packet[8] >= 2
        )

    def sends_to(self, packet: bytes) -> str | None:
        """To whom this packet of the device is to be sent, if to anybody."""
        return self.owner(packet[16:20]) if sound(packet) and packet[8] >= 2 else None


class Spoiler:
    """Changes packets in ways that an attacker, a bug or a bad wire would."""

    def __init__(self, chance: random.Random, addresses: t.Sequence[str]) -> None:
        self._chance = chance
        self._addresses = [ipaddress.IPv4Address(each).packed for each in addresses]

    def garbage(self) -> bytes:
        chance = self._chance
        data = bytearray(chance.randbytes(chance.choice([0, 1, 2, 8, 19, 20, 28, 40, 41, 300])))
        if data and chance.random() < 0.7:
            data[0] = chance.choice([0x45, 0x45, 0x46, 0x4F, 0x40, 0xF1, 0xF1])
        return bytes(data)

    def spoilt(self, packet: bytes) -> bytes:
        """Changed in one to three places, with a header checksum that is right or not."""
        chance = self._chance
        data = bytearray(packet)
        for dummy in range(chance.choice([1, 1, 2, 3])):
            self._change(data)
        length = (data[0] & 15) * 4 if data else 0
        if 20 <= length <= len(data) and chance.random() < 0.6:
            data[10:12] = b"\0\0"
            struct.pack_into("!H", data, 10, checksum(bytes(data[:length])))
        return bytes(data)

    def _change(self, data: bytearray) -> None:
        chance = self._chance
        kind = chance.randrange(12)
        if len(data) < 20:
            data += chance.randbytes(chance.randrange(30))
        elif kind == 0:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[chance.randrange(len(data)) :]
        elif kind == 2:
            data += chance.randbytes(chance.choice([1, 2, 3, 20]))
        elif kind == 3:
            data[0] = chance.choice([0x40, 0x44, 0x46, 0x4F, 0x55, 0x65, 0x05, 0xF1, 0xF5])
        elif kind == 4:
            struct.pack_into("!H", data, 2, chance.choice([0, 19, 20, 65535, len(data) - 1]))
        elif kind == 5:
            struct.pack_into("!H", data, 6, chance.choice([0x2000, 1, 0x1FFF, 0x8000, 0x4000]))
        elif kind == 6:
            data[8] = chance.choice([0, 1, 2, 255])
        elif kind == 7:
            data[9] = chance.choice([0, 1, 2, 6, 17, 41, 255])
        elif kind == 8:
            data[12:16] = chance.choice(self._addresses)
        elif kind == 9:
            data[16:20] = chance.choice(self._addresses)
        else:
            at = chance.randrange(min(len(data), 60))
            data[at] = chance.choice([0, 0xFF, chance.randrange(256)])
