# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge that a task asks for.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from .. import checks
from ..errors import InvalidInput, option
from ..kernel.entries import Address, Entry, Link
from ..kernel.links import LinkPlan, plan_link, remove_link
from .bridge_subnet import OtherAddress, PortsLeft, refuse_ports


class Bridge(NamedTuple):
    """``addresses`` None: they are left as they are. ``former`` are addresses of this host's former
    subnets; they are removed. ``force``: remove the bridge even while it has ports."""

    link: Link
    addresses: tuple[Address, ...] | None
    former: tuple[str, ...]
    exclusive: bool
    force: bool


def parse(params: Mapping[str, Any]) -> Bridge:
    """The bridge that the options describe. Options that are not given stay open."""
    name = checks.device("name", params["name"])
    checks.number("mtu", params["mtu"], 68, 65535)
    if params["exclusive"] and params["addresses"] is None:
        raise InvalidInput("exclusive: needs the option addresses, which says what is to stay")
    if params["exclusive"] and params["state"] == "absent":
        raise InvalidInput("exclusive: goes with state=present only")
    given = params["addresses"]
    former = checks.interface_addresses("former", params["former"])
    for each in former:
        if each in (given or ()):
            raise InvalidInput("former: %s is listed in addresses as well; list it once" % each)
    return Bridge(
        Link(
            name,
            "bridge",
            mtu=params["mtu"],
            mac=None if params["mac"] is None else checks.mac("mac", params["mac"]),
            options=() if params["stp"] is None else (("stp", params["stp"]),),
        ),
        None
        if given is None
        else tuple(Address(name, each) for each in checks.interface_addresses("addresses", given)),
        tuple(former),
        params["exclusive"],
        params["force"],
    )


def change(
    asked: Bridge,
    observed: Link | None,
    held: Iterable[Entry],
    mac: str | None,
    ports: Callable[[], Sequence[str]],
) -> LinkPlan:
    """The changes that make the bridge as asked for. A new one gets ``mac`` by default. ``ports``
    returns its ports."""
    held = list(held)
    wanted = asked.addresses or ()
    families = {":" in each.address for each in wanted}
    keys = {each.key for each in wanted}
    have = [each for each in held if isinstance(each, Address) and each.key not in keys]
    going = [each.address for each in have if each.address in asked.former]
    stay = [each for each in have if each.address not in asked.former]
    other = [each.address for each in stay if (":" in each.address) in families]
    link = asked.link if mac is None else asked.link._replace(mac=mac)
    all_wanted = wanted if asked.exclusive else (*wanted, *stay)
    planned = plan_link(link, observed, all_wanted, held, exclusive=True)
    refuse_ports(asked.link.name, going, ports)
    if other and not asked.exclusive:
        raise OtherAddress(
            "addresses: %s also has %s, which is not listed; to remove it, as after a change of "
            "subnet, set exclusive" % (link.name, ", ".join(other))
        )
    return planned


def removal(
    asked: Bridge, observed: Link | None, held: Iterable[Entry], ports: Sequence[str]
) -> LinkPlan:
    """The changes that remove the bridge. Raises PortsLeft if it has ports."""
    planned = remove_link("bridge", observed, held)
    if ports and not asked.force:
        raise PortsLeft(
            "name: %s still has the ports %s; remove them first, or set %s"
            % (asked.link.name, ", ".join(ports), option("force"))
        )
    return planned
