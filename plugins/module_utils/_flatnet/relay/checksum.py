# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Internet checksum (RFC 1071) as arithmetic on large integers.

The checksum adds 16-bit words, and adds each carry again at the low end. That is addition modulo
65535. Bytes that are read as one big-endian number are equal to the sum of their words modulo
65535, because 65536 is 1 there. So nobody has to look at the words one by one: the bytes are
converted to one number, the number is folded in halves a few times, and then a short division is
left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import repeat
from operator import mul

# Words. A division costs as much for each digit as five foldings, so it comes when few are left.
_SHORT = 48
# Foldings are kept for numbers of up to so many words, rounded up to the next multiple of _STEP.
_MOST_KEPT, _STEP = 1024, 16


def _foldings(words: int) -> tuple[tuple[int, int], ...]:
    """Shifts and masks that halve a number of so many words until it is short."""
    found = []
    while words > _SHORT:
        words = (words + 1) // 2
        found.append((16 * words, (1 << 16 * words) - 1))
        words += 1  # the sum's carry
    return tuple(found)


_FOLDINGS = tuple(_foldings(_STEP * number) for number in range(_MOST_KEPT // _STEP + 1))


def _fold(number: int) -> int:
    """Fold a number of any length."""
    while number.bit_length() > 16 * _SHORT:
        shift = (number.bit_length() + 31) // 32 * 16
        number = (number >> shift) + (number & ((1 << shift) - 1))
    return number


def total(data: bytes | bytearray | memoryview) -> int:
    """The sum of the words modulo 65535; an odd last byte is the high one of its word."""
    number = int.from_bytes(data, "big")
    size = len(data)
    if size & 1:
        number <<= 8
    if size > 2 * _MOST_KEPT - 2:
        return _fold(number) % 65535
    for shift, mask in _FOLDINGS[(size + 2 * _STEP - 1) // (2 * _STEP)]:
        number = (number >> shift) + (number & mask)
    return number % 65535


def field(value: int) -> int:
    """What stands in a checksum field for words whose sum is ``value``, the field itself 0.

    0 and 65535 are the same sum; like the kernel, this gives 0, never 65535.
    """
    return -value % 65535


def _weights(count: int) -> tuple[int, ...]:
    """Numbers that have no divisor in common with 65535, drawn anew at each start of the program.

    No number is another one times a power of two, or the negative of that. So two broken bits never
    cancel out, wherever they are."""
    units = [n for n in range(1, 65535) if n % 3 and n % 5 and n % 17 and n % 257]
    random.SystemRandom().shuffle(units)
    found: list[int] = []
    taken: set[int] = set()
    for unit in units:
        if unit not in taken:
            found.append(unit)
            multiples = {(unit << shift) % 65535 for shift in range(16)}
            taken |= multiples | {65535 - each for each in multiples}
        if len(found) == count:
            break
    return tuple(found)


MOST = 64
_WEIGHTS = _weights(MOST)
_WEIGHT_SUMS = tuple(sum(_WEIGHTS[:count]) for count in range(MOST + 1))
_BIG = repeat("big")


def all_are(pieces: Sequence[memoryview], value: int) -> bool:
    """Whether the sum of each piece is ``value``. There are at most ``MOST`` pieces, of one length.

    The pieces are added together, each with a weight of its own, and the result is compared once.
    That saves the folding and the division of each piece. A single wrong piece is always found,
    because every weight has an inverse. Several wrong pieces pass as rarely as one random piece
    passes a checksum, because the weights are random. Without weights, or with regular ones, errors
    that a broken bit makes again and again would cancel out.
    """
    numbers = map(int.from_bytes, pieces, _BIG)  # type: ignore[arg-type]
    number = sum(map(mul, _WEIGHTS, numbers))
    if len(pieces[0]) & 1:
        number <<= 8
    return (_fold(number) - value * _WEIGHT_SUMS[len(pieces)]) % 65535 == 0
