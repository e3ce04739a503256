# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay that a task asks for, and whether this host can have it.

Pure. Each raises InvalidInput naming the option.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .. import checks
from ..backends.udp.backend import OVERHEAD, VECTOR
from ..errors import InvalidInput
from ..fields import show
from ..kernel.entries import Address, Interface
from ..kernel.links import device_with
from ..relay.config import RelayPeer, RelaySettings, RelayTable

_NUMBERS = {"port": (1, 65535), "mtu": (68, 65507), "workers": (0, 16)}


def settings(
    params: Mapping[str, Any],
    interfaces: Mapping[str, Interface],
    addresses: Iterable[Address],
) -> RelaySettings:
    """The relay's settings, with the MTU that this host's underlay leaves."""
    for option in ("network", "subnet", "listen"):
        if not params[option]:
            raise InvalidInput("%s: is required" % option)
    for option, (low, high) in _NUMBERS.items():
        checks.number(option, params[option], low, high)
    for option in ("table_file", "metrics_file"):
        path(option, params[option])
    network, subnet = (_ipv4(option, params[option]) for option in ("network", "subnet"))
    if not subnet.subnet_of(network):
        raise InvalidInput("subnet: %s is not in the network %s" % (subnet, network))
    address = checks.address("address", params["address"] or str(subnet.network_address), 4)
    if ipaddress.ip_address(address) not in subnet:
        raise InvalidInput("address: %s is not in the subnet %s" % (address, subnet))
    listen = checks.address("listen", params["listen"], 4)
    if ipaddress.ip_address(listen) in network:
        raise InvalidInput("listen: %s is in the overlay's network %s" % (listen, network))
    name = checks.device("name", params["name"])
    holder = device_with("listen", listen, addresses)
    return RelaySettings(
        device=name,
        address=address,
        subnet=str(subnet),
        network=str(network),
        listen=listen,
        mtu=_mtu(params["mtu"], interfaces[holder]),
        port=params["port"],
        vector=params["vector"],
        workers=params["workers"],
        user=params["user"],
        table_file=params["table_file"],
        metrics_file=params["metrics_file"],
    )


def table(given: Iterable[Mapping[str, Any]], asked: RelaySettings) -> RelayTable:
    """The table as a user wrote it."""
    network, own = map(ipaddress.IPv4Network, (asked.network, asked.subnet))
    peers: dict[str, RelayPeer] = {}
    for index, each in enumerate(given):
        where = "table[%d]" % index
        subnet = _ipv4(where + ".subnet", each["subnet"])
        address = checks.address(where + ".address", each["address"], 4)
        vector = checks.number(where + ".vector", each["vector"], 0, VECTOR)
        if not subnet.subnet_of(network):
            raise InvalidInput("%s.subnet: %s is not in the network %s" % (where, subnet, network))
        if subnet.overlaps(own):
            raise InvalidInput("%s.subnet: %s overlaps this host's own, %s" % (where, subnet, own))
        if address == asked.listen or ipaddress.ip_address(address) in network:
            raise InvalidInput("%s.address: %s cannot be a peer's address" % (where, address))
        if str(subnet) in peers:
            raise InvalidInput(
                "%s.subnet: %s belongs to %s already" % (where, subnet, peers[str(subnet)].address)
            )
        peers[str(subnet)] = RelayPeer(str(subnet), address, vector or 0)
    return RelayTable(tuple(peers.values()))


def unit(text: str, user: str) -> str:
    """The unit's text, which has to start the relay as the user that the device belongs to."""
    found = re.findall(r"^User=(.*)$", text, re.MULTILINE)
    if found[-1:] != [user]:
        raise InvalidInput(
            "unit: it has to say User=%s, the option user; it has %s"
            % (user, "User=" + found[-1] if found else "no User=")
        )
    return text


def path(option: str, value: str | None) -> str | None:
    if value is not None and not os.path.isabs(value):
        raise InvalidInput("%s: %s is not an absolute path" % (option, show(value)))
    return value


def _ipv4(option: str, value: str) -> ipaddress.IPv4Network:
    found = ipaddress.ip_network(checks.network(option, value))
    if not isinstance(found, ipaddress.IPv4Network):
        raise InvalidInput(
            "%s: %s is not an IPv4 network; the relay carries IPv4 only" % (option, found)
        )
    return found


def _mtu(given: int | None, lower: Interface) -> int:
    takes = OVERHEAD[4]
    low, high = _NUMBERS["mtu"]
    mtu = min(lower.mtu - takes, high) if given is None else given
    if not low <= mtu <= lower.mtu - takes:
        raise InvalidInput(
            "mtu: %d is not possible: packets leave by %s, whose MTU is %d, and IP and UDP take %d"
            % (mtu, lower.name, lower.mtu, takes)
        )
    return mtu
