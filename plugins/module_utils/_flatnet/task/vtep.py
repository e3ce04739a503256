# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VXLAN device that a task asks for, and whether this host can have it.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Mapping
from typing import Any

from .. import checks
from ..errors import InvalidInput
from ..kernel.entries import MAX_VNI, VXLAN_OVERHEAD, Address, Interface, Link
from ..kernel.links import complete, device_with

_MIN_MTU, _MAX_MTU = 68, 65535

_FLAGS = "learning proxy l2miss l3miss rsc udpcsum udp6zerocsumtx udp6zerocsumrx gbp".split()
_NUMBERS = {
    "id": (1, MAX_VNI),
    "dstport": (1, 65535),
    "ttl": (0, 255),
    "tos": (0, 255),
    "ageing": (0, (1 << 32) - 1),
}


def name(params: Mapping[str, Any]) -> str:
    """The device's name: as given, or flannel's."""
    checks.number("id", params["id"], *_NUMBERS["id"])
    return checks.device("name", params["name"] or "flannel.%d" % params["id"])


def parse(params: Mapping[str, Any], default_mac: str) -> Link:
    """The device that the options describe. Options that are not given stay open."""
    for option, (low, high) in _NUMBERS.items():
        checks.number(option, params[option], low, high)
    checks.number("mtu", params["mtu"], _MIN_MTU, _MAX_MTU)
    found: dict[str, Any] = {option: params[option] for option in (*_NUMBERS, *_FLAGS)}
    found["external"] = False
    for option, key in (("local", "local"), ("group", "group"), ("device", "dev")):
        value = params[option]
        if value == "":
            found[key] = None
        elif value is not None:
            check = checks.device if option == "device" else checks.address
            found[key] = check(option, value)
    if found.get("group") and not ipaddress.ip_address(found["group"]).is_multicast:
        raise InvalidInput("group: %s is not a multicast address" % found["group"])
    own = name(params)
    for option in ("device", "master"):
        if params[option] == own:
            raise InvalidInput("%s: %s is the device itself; name another one" % (option, own))
    if params["master"]:
        checks.device("master", params["master"])
    return Link(
        own,
        "vxlan",
        mtu=params["mtu"],
        mac=default_mac if params["mac"] is None else checks.mac("mac", params["mac"]),
        master=params["master"],
        options=tuple(sorted(found.items())),
    )


def fit_to_host(
    desired: Link,
    observed: Link | None,
    interfaces: Mapping[str, Interface],
    addresses: Iterable[Address],
) -> Link:
    """``desired``, with the MTU that fits this host. Raises InvalidInput if the host cannot have
    it."""
    option = complete(desired, observed).option
    local, group, device = (option.get(key) for key in ("local", "group", "dev"))
    if group and not device:
        raise InvalidInput("group: needs device, the underlay's interface that joins %s" % group)
    families = {ipaddress.ip_address(each).version for each in (local, group) if each}
    if len(families) > 1:
        raise InvalidInput("local: %s and the group %s are of different families" % (local, group))
    if device and device not in interfaces:
        raise InvalidInput(
            "device: %s does not exist on this host, which has %s"
            % (device, ", ".join(sorted(interfaces)))
        )
    holder = device_with("local", local, addresses, desired.name) if local else None
    lower = device or holder
    if not lower:
        return desired
    if lower == "lo" and desired.mtu is None:
        raise InvalidInput(
            "mtu: is required, since %s is on lo, whose MTU says nothing of the underlay's" % local
        )
    outer, takes = interfaces[lower].mtu, VXLAN_OVERHEAD[max(families, default=4)]
    mtu = outer - takes if desired.mtu is None else desired.mtu
    if not _MIN_MTU <= mtu <= outer - takes:
        raise InvalidInput(
            "mtu: %d is not possible: packets leave by %s, whose MTU is %d, and VXLAN takes %d"
            % (mtu, lower, outer, takes)
        )
    return desired._replace(mtu=mtu)


def check_master(desired: Link, interfaces: Container[str]) -> None:
    """Raise InvalidInput if the master does not exist. Not for check mode: an earlier task could
    make it."""
    if desired.master and desired.master not in interfaces:
        raise InvalidInput("master: device %s does not exist on this host" % desired.master)


def is_former(
    link: Link | None, addresses: Iterable[Address], wanted: Iterable[Address], macs: Container[str]
) -> bool:
    """Whether a device is this host's VTEP of a VNI that the network had before.

    It is, if its name has its VNI, its MAC address is one that only this host gives, and its only
    addresses are the ``wanted`` ones. A flanneld's VTEP has a random MAC address. The VTEP of
    another network has another address.
    """
    return (
        link is not None
        and link.kind == "vxlan"
        and link.name == "flannel.%s" % link.option.get("id")
        and link.mac in macs
        and {each.address for each in addresses} == {each.address for each in wanted} != set()
    )
