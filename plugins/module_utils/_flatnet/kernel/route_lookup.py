# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether packets to an address go into the overlay now."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable

from . import messages, netlink
from .entries import PROTOCOL

# The devices of flannel's backends.
FLANNEL = re.compile(r"flannel([.0-9-].*)?")


def overlaid(kernel: netlink.Netlink, address: str) -> bool:
    """Whether packets to an IPv4 address take a route of ours, or one through a flannel device."""
    try:
        body = kernel.get(netlink.RTM_GETROUTE, messages.way_request(address))
    except netlink.NetlinkError:
        return False  # there is no route to it
    route = messages.decode_route(body, None, dict(socket.if_nameindex())) if body else None
    return bool(route and (route.protocol == PROTOCOL or FLANNEL.fullmatch(route.dev)))


def apart(addresses: Iterable[str]) -> list[str]:
    """The addresses that are not reached through the overlay."""
    with contextlib.closing(netlink.Netlink()) as kernel:
        return [each for each in addresses if not overlaid(kernel, each)]
