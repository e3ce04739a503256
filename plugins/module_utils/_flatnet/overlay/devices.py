# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlay's own devices on a host.

Pure: made from the config, this host's lease and its underlay.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..backends.protocol import Here
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease, gateway
from ..identity import stable_mac
from ..kernel.entries import Address, Device, Entry, Link
from ..kernel.links import LinkPlan, plan_link
from ..relay.config import RelaySettings
from .underlay import Underlay


def plan(device: Device, observed: Link | None, held: Iterable[Entry]) -> LinkPlan:
    """The changes that make the device and its addresses as they should be."""
    held = list(held)
    keys = {each.key for each in device.addresses}
    others = [each for each in held if isinstance(each, Address) and each.key not in keys]
    stay = () if device.exclusive else [each for each in others if each.address != device.former]
    return plan_link(device.link, observed, (*device.addresses, *stay), held, exclusive=True)


def of_backend(
    config: NetworkConfig, own: Lease, underlay: Underlay, relay: RelaySettings | None = None
) -> tuple[Device, ...]:
    """The devices that the backend needs on this host. ``relay``: the relay's settings here."""
    return config.backend.devices(here(config, own, underlay, relay))


def here(
    config: NetworkConfig, own: Lease, underlay: Underlay, relay: RelaySettings | None = None
) -> Here:
    """This host, as backends see it."""
    return Here(
        config.network,
        own.subnet,
        own.data,
        underlay.interface,
        underlay.ip,
        underlay.mtu,
        relay,
    )


def bridge(
    name: str, config: NetworkConfig, own: Lease, underlay: Underlay, new: bool, former: str = ""
) -> Device:
    """The container bridge. A ``new`` one gets a MAC that is always the same. ``former`` is the
    gateway address of this host's former subnet."""
    link = Link(
        name,
        "bridge",
        mtu=config.backend.overlay_mtu(underlay.mtu),
        mac=stable_mac(own.host_id, "bridge " + name) if new else None,
    )
    addresses = (Address(name, gateway(own.subnet)),)
    return Device(link, addresses, exclusive=False, former=former)
