# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Internet checksum (RFC 1071) as arithmetic on large integers.

A checksum adds 16-bit words with the carry brought round, which is addition modulo 65535, and bytes
read as one big-endian number are modulo 65535 what the sum of their words is, since 65536 is 1. So
the words need not be looked at one by one: one conversion, a few foldings that halve the number,
and one division that is short by then.
"""

from __future__ import annotations

# Division costs as much per digit as five foldings: worth it once there are only a few.
_SHORT = 48

_FOLDINGS: dict[int, tuple[tuple[int, int], ...]] = {}


def _foldings(words: int) -> tuple[tuple[int, int], ...]:
    """Shifts and masks that halve a number of so many words until it is short."""
    key = words
    found = []
    while words > _SHORT:
        words = (words + 1) // 2
        found.append((16 * words, (1 << 16 * words) - 1))
        words += 1  # the sum's carry
    _FOLDINGS[key] = tuple(found)
    return _FOLDINGS[key]


def total(data: bytes | bytearray | memoryview) -> int:
    """The sum of the words modulo 65535; an odd last byte is the high one of its word."""
    number = int.from_bytes(data, "big")
    size = len(data)
    if size & 1:
        number <<= 8
    words = (size + 1) >> 1
    for shift, mask in _FOLDINGS.get(words) or _foldings(words):
        number = (number >> shift) + (number & mask)
    return number % 65535


def field(value: int) -> int:
    """What stands in a checksum field for words whose sum is ``value``, the field itself 0.

    0 and 65535 are the same sum; like the kernel, this gives 0, never 65535.
    """
    return -value % 65535


def pseudo(source: int, destination: int, protocol: int, length: int) -> int:
    """The sum of IPv4's pseudo header, not reduced; addresses as numbers."""
    return source + destination + protocol + length
