# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge that a task asks for.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import options
from .entries import Address, Entry, Link
from .errors import FlatnetError, InvalidInput
from .links import LinkPlan, plan_link, remove_link


class OtherAddress(FlatnetError):
    """The bridge has an address that it should not have."""


class PortsLeft(FlatnetError):
    """A bridge that is to go is in use."""


class Bridge(NamedTuple):
    """``addresses`` None: not looked at. ``force`` allows its removal while it has ports."""

    link: Link
    addresses: tuple[Address, ...] | None
    exclusive: bool
    force: bool


def parse(params: Mapping[str, Any]) -> Bridge:
    """The bridge as asked for; what is not said is left open."""
    name = options.device("name", params["name"])
    options.number("mtu", params["mtu"], 68, 65535)
    if params["exclusive"] and params["addresses"] is None:
        raise InvalidInput("exclusive: needs addresses, the ones that are to stay")
    if params["exclusive"] and params["state"] == "absent":
        raise InvalidInput("exclusive: goes with state=present only")
    given = params["addresses"]
    return Bridge(
        Link(
            name,
            "bridge",
            mtu=params["mtu"],
            mac=None if params["mac"] is None else options.mac("mac", params["mac"]),
            options=() if params["stp"] is None else (("stp", params["stp"]),),
        ),
        None
        if given is None
        else tuple(Address(name, each) for each in options.interface_addresses("addresses", given)),
        params["exclusive"],
        params["force"],
    )


def change(
    asked: Bridge, observed: Link | None, held: Iterable[Entry], mac: str | None
) -> LinkPlan:
    """What makes the bridge as asked for; ``mac`` is what a new one gets by default."""
    held = list(held)
    wanted = asked.addresses or ()
    families = {":" in each.address for each in wanted}
    keys = {each.key for each in wanted}
    other = [
        each.address
        for each in held
        if isinstance(each, Address) and (":" in each.address) in families and each.key not in keys
    ]
    link = asked.link if mac is None else asked.link._replace(mac=mac)
    planned = plan_link(link, observed, wanted, held, asked.exclusive)
    if other and not asked.exclusive:
        raise OtherAddress(
            "addresses: %s also has %s, which is not listed, as when a subnet changed; to remove "
            "it, set exclusive" % (link.name, ", ".join(other))
        )
    return planned


def removal(
    asked: Bridge, observed: Link | None, held: Iterable[Entry], ports: Sequence[str]
) -> LinkPlan:
    """What takes the bridge away. Raises PortsLeft while something is plugged into it."""
    planned = remove_link("bridge", observed, held)
    if ports and not asked.force:
        raise PortsLeft(
            "name: %s still has the ports %s; remove them first, or set force"
            % (asked.link.name, ", ".join(ports))
        )
    return planned
