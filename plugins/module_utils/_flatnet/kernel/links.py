# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The changes that a device needs: in place if the kernel can, else the device is made anew.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import FlatnetError, InvalidInput, option
from .entries import Address, Entry, Link, format_option
from .plan import Change, Changes, plan

# Options that vxlan_changelink (drivers/net/vxlan) changes on a live device. It refuses the others;
# the local address it accepts, but does not move the socket. A bridge takes all of ours.
LIVE = frozenset(["learning", "ageing", "ttl", "tos", "stp", "vlan_filtering"])
_COMMON = ("mtu", "mac", "master", "up")


class ForeignDevice(FlatnetError):
    """A device of the wanted name is of another kind, so somebody else's."""


class LinkPlan(NamedTuple):
    """``recreated`` says why the device cannot change in place; empty if it can."""

    changes: Changes
    recreated: tuple[str, ...] = ()


def complete(desired: Link, observed: Link | None) -> Link:
    """``desired``, with what it leaves open taken from ``observed``."""
    if observed is None:
        return desired
    if observed.kind != desired.kind:
        raise ForeignDevice(
            "name: device %s exists and is %s, not a %s, so it is somebody else's; choose another "
            "name, or remove the device yourself" % (desired.name, kind_of(observed), desired.kind)
        )
    options = observed.option
    options.update(desired.options)
    return desired._replace(
        options=tuple(sorted(options.items())),
        **{
            name: getattr(observed, name) if getattr(desired, name) is None else value
            for name, value in ((name, getattr(desired, name)) for name in _COMMON)
        },
    )


def plan_link(
    desired: Link,
    observed: Link | None,
    addresses: Iterable[Address],
    held: Iterable[Entry] = (),
    exclusive: bool = False,
) -> LinkPlan:
    """The changes that make a device and its addresses as desired.

    ``held`` is all that the observed device holds (addresses, neighbours, FDB, routes); a device
    that has to be made anew gets all of it back. ``exclusive`` removes other addresses.
    """
    have: list[Entry] = []
    rest: list[Entry] = []
    for entry in held:
        (have if isinstance(entry, Address) else rest).append(entry)
    target = complete(desired, observed)
    wanted: list[Entry] = list(addresses)
    if not exclusive:
        # By key: an IPv6 address that is wanted with another length is not kept with the old one.
        keys = {address.key for address in wanted}
        wanted += [address for address in have if address.key not in keys]
    reasons = _reasons(target, observed) if observed else ()
    if observed and reasons:
        # The kernel would drop these with the device; written out, the inverse brings them back.
        taken = plan((), have + rest)
        given = plan(wanted + rest, ())
        changes = taken + (Change(observed, None), Change(None, target)) + given
        return LinkPlan(changes, reasons)
    return LinkPlan(plan([target] + wanted, ([observed] if observed else []) + have))


def remove_link(kind: str, observed: Link | None, held: Iterable[Entry]) -> LinkPlan:
    """The changes that take a device away with all it holds."""
    if observed is None:
        return LinkPlan(())
    if observed.kind != kind:
        raise ForeignDevice(
            "name: device %s is %s, not a %s; it was not removed"
            % (observed.name, kind_of(observed), kind)
        )
    return LinkPlan(plan((), [observed, *held]))


def describe(name: str, entries: Iterable[Entry | None]) -> dict[str, Any]:
    """A device and its addresses, of all that is or will be there, for a module's result."""
    link, addresses = None, []
    for entry in entries:
        if isinstance(entry, Link) and entry.name == name:
            link = dict(entry.to_dict(), master=entry.master or "")
        elif isinstance(entry, Address) and entry.dev == name:
            addresses.append(entry.address)
    return {"link": link, "addresses": sorted(addresses)}


def kind_of(link: Link) -> str:
    return "a %s device" % link.kind if link.kind else "hardware"


def _reasons(target: Link, observed: Link) -> tuple[str, ...]:
    have = observed.option
    return tuple(
        "%s %s cannot become %s on a live device"
        % (name, format_option(have.get(name)), format_option(value))
        for name, value in target.options
        if name not in LIVE and have.get(name) != value
    )


def device_with(
    given: str, address: str, addresses: Iterable[Address], own: str | None = None
) -> str:
    """The device that has ``address``. ``own``, a device of the overlay, is ignored. Raises
    InvalidInput, which names the option ``given``, if there is none."""
    others = []
    for each in addresses:
        if each.dev == own:
            continue
        found = each.address.partition("/")[0]
        if found == address:
            return each.dev
        others.append(found)
    raise InvalidInput(
        "%s: %s is not an address of this host's underlay, which has %s"
        % (option(given), address, ", ".join(others) or "none")
    )
