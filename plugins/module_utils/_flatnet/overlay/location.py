# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who this host is, and by which interface and address peers reach it."""

from __future__ import annotations

import ipaddress
import platform
import re
from typing import NamedTuple

from .. import checks
from ..errors import InvalidInput, option
from ..fields import parse_name
from ..flannel.config import Network, NetworkConfig
from ..flannel.host import Host
from ..flannel.lease import parse_public_ip
from ..host.machine import identify
from ..kernel.entries import Address
from ..kernel.reader import KernelReader
from . import underlay
from .underlay import Underlay


class Choice(NamedTuple):
    """What the user says about it. What is None is found out: see underlay.choose."""

    interface: str | None = None
    interface_regex: str | None = None
    can_reach: str | None = None
    public_ip: str | None = None
    host_id: str | None = None
    hostname: str | None = None


class HostLocation(NamedTuple):
    """This host in its underlay. ``addresses`` are those that are not the overlay's own."""

    host: Host
    underlay: Underlay
    addresses: tuple[Address, ...]


def check(choice: Choice) -> None:
    """Raise InvalidInput for what is wrong on any host."""
    for name in ("public_ip", "can_reach"):
        given = getattr(choice, name)
        if given:
            checks.address(name, given, 4)
    for name in ("host_id", "hostname"):
        given = getattr(choice, name)
        if given:
            parse_name(name, given)
    try:
        re.compile(choice.interface_regex or "")
    except re.error as error:
        raise InvalidInput(
            "%s %r is not a regular expression: %s"
            % (option("interface_regex"), choice.interface_regex, error)
        ) from None


def find(kernel: KernelReader, config: NetworkConfig, choice: Choice) -> HostLocation:
    """Find out where this host is, from its kernel and machine id. Raises InvalidInput,
    NoUnderlay."""
    check(choice)
    addresses = kernel.addresses()
    # A device with an address that could be leased is the overlay's: bridge, VTEP, a docker0.
    pool = config.ipv4
    own = {config.backend.device} | {
        each.dev for each in addresses if between(each.address, pool.subnet_min, pool.subnet_max)
    }
    found = underlay.choose(
        kernel.interfaces(),
        addresses,
        kernel.routes(foreign=True),
        interface=choice.interface,
        pattern=choice.interface_regex,
        can_reach=choice.can_reach,
        ignore=[name for name in own if name],
    )
    if config.backend.mtu and config.backend.mtu > found.mtu:
        raise InvalidInput(
            "Backend.MTU %d of the network is more than %d, the MTU of %s, which packets leave by; "
            "set a smaller one, or leave it out" % (config.backend.mtu, found.mtu, found.interface)
        )
    host = Host(
        host_id=identify(choice.host_id),
        hostname=parse_name("hostname", choice.hostname or platform.node()),
        public_ip=parse_public_ip("public_ip", choice.public_ip or found.ip),
    )
    others = tuple(each for each in addresses if each.dev not in own or each.dev == found.interface)
    return HostLocation(host, found, others)


def between(address: str, first: Network, last: Network) -> bool:
    """Whether an interface's address lies in one of the subnets from ``first`` to ``last``."""
    found = ipaddress.ip_interface(address).ip
    return (
        found.version == first.version and first.network_address <= found <= last.broadcast_address  # type: ignore[operator]
    )
