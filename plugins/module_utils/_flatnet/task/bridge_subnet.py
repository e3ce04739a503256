# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a bridge from getting a subnet.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from typing import Callable

from ..errors import FlatnetError
from ..kernel.entries import Address


class OtherAddress(FlatnetError):
    """The bridge has an address that it should not have."""


class PortsLeft(FlatnetError):
    """A bridge that is to be removed, or to get another subnet, is in use."""


def refuse_ports(name: str, going: Sequence[str], ports: Callable[[], Sequence[str]]) -> None:
    """Raise PortsLeft if the bridge has ports and addresses are ``going`` to be removed from it."""
    left = ports() if going else ()
    if left:
        raise PortsLeft(
            "bridge %s cannot get another subnet: containers on its ports %s have addresses "
            "of the subnet of %s; end these containers first, then run this again"
            % (name, ", ".join(left), ", ".join(going))
        )


def in_the_way(
    held: Iterable[Address], gateway: str, former: Collection[str], network: str | None
) -> tuple[list[str], list[str]]:
    """The IPv4 addresses that a bridge has beside its own, ``gateway``: first those of former
    subnets of this host, then all others.

    ``former`` are gateways that this host is known to have had. ``network`` is the overlay's, if
    gateways of all its subnets count as former ones.
    """
    known: list[str] = []
    other: list[str] = []
    for each in held:
        if ":" in each.address or each.address == gateway:
            continue
        address = ipaddress.IPv4Interface(each.address)
        shaped = address.ip == address.network.network_address + 1
        inside = network is not None and address.network.subnet_of(ipaddress.IPv4Network(network))
        (known if each.address in former or (shaped and inside) else other).append(each.address)
    return known, other
