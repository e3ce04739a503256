# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and prefixes as numbers, to be compared by the thousand: ipaddress is much slower.

Pure. Texts are canonical already, unless a function says that it checks them.
"""

from __future__ import annotations

import socket
from typing import Any


def ipv4_number(address: str) -> int:
    """An IPv4 address as a number."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")


def canonical_number(text: Any) -> int | None:
    """An IPv4 address as a number; None if ``text`` is anything but one in canonical form."""
    if isinstance(text, str):
        try:
            packed = socket.inet_pton(socket.AF_INET, text)
        except (OSError, ValueError):  # ValueError: a null or a surrogate in it
            return None
        if socket.inet_ntop(socket.AF_INET, packed) == text:
            return int.from_bytes(packed, "big")
    return None


def span(prefix: str, bits: int = 32) -> tuple[int, int]:
    """First and last address of a prefix as numbers. ``bits`` is 32 for IPv4, 128 for IPv6. Host
    bits are ignored. An address without a length is a prefix of full length.

    The span of a prefix of the other family is empty: (0, -1).
    """
    address, _slash, length = prefix.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    if len(packed) * 8 != bits:
        return 0, -1
    rest = bits - int(length or bits)
    first = int.from_bytes(packed, "big") >> rest << rest
    return first, first + (1 << rest) - 1
