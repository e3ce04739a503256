# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of single values that a user gave. Pure; each raises InvalidInput naming the option."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from .errors import InvalidInput
from .errors import option as named
from .fields import show

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def number(option: str, value: int | None, low: int, high: int) -> int | None:
    """A whole number from ``low`` to ``high``; None stays None."""
    if value is not None and not low <= value <= high:
        raise InvalidInput("%s: %d is not from %d to %d" % (named(option), value, low, high))
    return value


def device(option: str, value: str) -> str:
    """A device name as the kernel takes it: 1 to 15 bytes, no slash, colon or white space.

    A percent sign is refused too, because the kernel would put a number in its place. So are
    brackets and quotes: then somebody gave a list or a dictionary instead of a name.
    """
    if (
        not value.isprintable()
        or not 0 < len(value.encode()) < 16
        or value in (".", "..")
        or re.search(r"[/:%\s\[\](){}'\"]", value)
    ):
        raise InvalidInput(
            "%s: %s is not a device name (1 to 15 characters, no slash, colon, percent "
            "sign, space, bracket or quote)" % (named(option), show(value))
        )
    return value


def address(option: str, value: str, family: int | None = None) -> str:
    """An IP address without prefix length, in canonical form; ``family`` is 4, 6 or either."""
    try:
        found = ipaddress.ip_address(_unzoned(value))
    except ValueError:
        raise InvalidInput("%s: %s is not an IP address" % (named(option), show(value))) from None
    if family and found.version != family:
        raise InvalidInput("%s: %s is not an IPv%d address" % (named(option), found, family))
    return str(found)


def interface_address(option: str, value: str) -> str:
    """An address with its prefix length, ``10.5.94.1/24``, that a device can be given."""
    try:
        if "/" not in value:
            raise ValueError("no prefix length")
        found = ipaddress.ip_interface(_unzoned(value))
    except ValueError:
        raise InvalidInput(
            "%s: %s is not an address with its prefix length, like 10.5.94.1/24"
            % (named(option), show(value))
        ) from None
    for name in ("unspecified", "multicast", "loopback", "link_local"):
        # People give out IPv4's link-local addresses like others. The kernel makes those of IPv6.
        if getattr(found.ip, "is_" + name) and (name != "link_local" or found.version == 6):
            raise InvalidInput(
                "%s: %s is %s, not an address to give a device"
                % (named(option), found, name.replace("_", "-"))
            )
    return str(found)


def interface_addresses(option: str, values: Sequence[str]) -> list[str]:
    """Addresses with their prefix lengths, none of them twice."""
    found: dict[str, int] = {}
    texts = []
    for index, value in enumerate(values):
        text = interface_address("%s[%d]" % (named(option), index), value)
        other = found.setdefault(text.partition("/")[0], index)
        if other != index:
            raise InvalidInput(
                "%s[%d]: %s is %s[%d] too" % (named(option), index, text, named(option), other)
            )
        texts.append(text)
    return texts


def _unzoned(value: str) -> str:
    """The address, unless it names an interface (``fe80::1%eth0``), which is not supported here."""
    if "%" in value:
        raise ValueError(value)
    return value


def network(option: str, value: str) -> str:
    """A prefix without host bits, ``10.5.94.0/24``."""
    found: ipaddress.IPv4Network | ipaddress.IPv6Network
    try:
        found = ipaddress.ip_network(_unzoned(value), strict=False)
    except ValueError:
        raise InvalidInput(
            "%s: %s is not a prefix, like 10.5.94.0/24" % (named(option), show(value))
        ) from None
    if "/" not in value or str(found.network_address) != str(
        ipaddress.ip_address(value.partition("/")[0])
    ):
        raise InvalidInput(
            "%s: %s is not a prefix; did you mean %s?" % (named(option), show(value), found)
        )
    return str(found)


def mac(option: str, value: str, many: bool = False) -> str:
    """A unicast MAC in lower case with colons; with ``many`` also multicast and zero ones."""
    text = value.lower().replace("-", ":")
    if not _MAC.fullmatch(text):
        raise InvalidInput("%s: %s is not a MAC address" % (named(option), show(value)))
    if not many and (int(text[:2], 16) & 1 or text == "00:00:00:00:00:00"):
        raise InvalidInput("%s: %s is not a unicast MAC address" % (named(option), text))
    return text
