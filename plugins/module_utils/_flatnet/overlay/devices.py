# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlay's own devices on a host.

Pure: made from the config, this host's lease and its underlay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..flannel.config import NetworkConfig
from ..flannel.identity import stable_mac
from ..flannel.lease import Lease, gateway
from ..kernel.entries import Address, Entry, Link
from ..kernel.links import LinkPlan, plan_link
from ..relay.config import RelaySettings
from .underlay import Underlay


class Device(NamedTuple):
    """A device as it should be. ``exclusive``: it has no addresses but these; else it has not the
    ``former`` one."""

    link: Link
    addresses: tuple[Address, ...]
    exclusive: bool
    former: str = ""


def plan(device: Device, observed: Link | None, held: Iterable[Entry]) -> LinkPlan:
    """What makes the device so."""
    held = list(held)
    keys = {each.key for each in device.addresses}
    others = [each for each in held if isinstance(each, Address) and each.key not in keys]
    stay = () if device.exclusive else [each for each in others if each.address != device.former]
    return plan_link(device.link, observed, (*device.addresses, *stay), held, exclusive=True)


def vtep(config: NetworkConfig, own: Lease, underlay: Underlay) -> Device:
    """The VXLAN device, as flannel makes it, with the MAC that the lease tells peers."""
    backend = config.backend
    name = backend.device or ""
    link = Link(
        name,
        "vxlan",
        mtu=backend.overlay_mtu(underlay.mtu),
        mac=own.vtep_mac,
        options=(
            ("dev", underlay.interface),
            ("dstport", backend.port),
            ("gbp", backend.gbp),
            ("id", backend.vni),
            ("learning", backend.learning),
            ("local", underlay.ip),
        ),
    )
    return Device(link, (Address(name, own.subnet.partition("/")[0] + "/32"),), exclusive=True)


def tun(settings: RelaySettings) -> Device:
    """The udp backend's device: it stays whether or not the relay runs, which it belongs to."""
    link = Link(
        settings.device,
        "tun",
        mtu=settings.mtu,
        options=(
            ("mode", "tun"),
            ("multi_queue", True),
            ("persist", True),
            ("pi", False),
            ("user", settings.user),
            ("vnet_hdr", True),
        ),
    )
    return Device(link, (Address(settings.device, settings.address + "/32"),), exclusive=True)


def bridge(
    name: str, config: NetworkConfig, own: Lease, underlay: Underlay, new: bool, former: str = ""
) -> Device:
    """The container bridge; one that is made ``new`` gets a MAC that it always has again, and
    ``former`` is the gateway of the subnet that was this host's before."""
    link = Link(
        name,
        "bridge",
        mtu=config.backend.overlay_mtu(underlay.mtu),
        mac=stable_mac(own.host_id, "bridge " + name) if new else None,
    )
    addresses = (Address(name, gateway(own.subnet)),)
    return Device(link, addresses, exclusive=False, former=former)
