# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of L2 segments that hosts saw behind the ports of their bridges.

Pure. What was seen was written by whoever is on the bridges, so nothing of it is an error: what
contradicts itself is left out, with a warning. Who was not seen may only be silent. Addresses are
not used, because the only mode that needs members to be seen, static, needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .. import checks
from ..errors import InvalidInput
from ..fields import show
from .segments import Member, Segment, UnknownHosts, names

LIMIT = 1000  # members that one host may add


class Discovered(NamedTuple):
    """The segment with all its members, and what to say of those that were left out."""

    segment: Segment
    warnings: tuple[str, ...] = ()


def with_discovered(segment: Segment, found: Mapping[str, Any], hosts: Iterable[str]) -> Discovered:
    """The segment with members that its ``hosts`` saw. ``found`` has them by host and by segment;
    None is a host that has no bridge yet.

    What the inventory lists counts more. Raises UnknownHosts if a host has not told its members,
    InvalidInput if what it told is nothing that segment_info returns.
    """
    if segment.learning:
        return Discovered(segment)
    where = "segment %s: " % segment.name
    listed = {member.mac for member in segment.members}
    seen: dict[str, set[str]] = {}
    missing = []
    for host in hosts:
        told = found.get(host) or {}
        if not isinstance(told, Mapping):
            raise InvalidInput("%sdiscovered: %s: %s is no mapping" % (where, host, show(told)))
        if segment.name in told:
            seen[host] = _macs("%sdiscovered: %s" % (where, host), told[segment.name]) - listed
        else:
            missing.append(host)
    if missing:
        raise UnknownHosts(
            "%sthe members behind the ports of %s are not known, because this run has not reached "
            "%s; nothing was changed; run it for all hosts of the segment"
            % (where, names(missing), "it" if len(missing) == 1 else "them")
        )
    holders: dict[str, list[str]] = {}
    for host, macs in seen.items():
        for mac in macs:
            holders.setdefault(mac, []).append(host)
    warnings = []
    contested = sorted(mac for mac, at in holders.items() if len(at) > 1)
    if contested:
        warnings.append(
            "%sseveral hosts saw the same MAC address, so it is left out until one of them sees it "
            "alone, or members lists it: %s"
            % (where, names(["%s (%s)" % (mac, ", ".join(holders[mac][:2])) for mac in contested]))
        )
    more = []
    for host, macs in seen.items():
        own = sorted(mac for mac in macs if len(holders[mac]) == 1)
        if len(own) > LIMIT:
            warnings.append(
                "%s%s saw %d members, and only %d are added; list the others in members"
                % (where, host, len(own), LIMIT)
            )
        more += [Member(mac, (), host) for mac in own[:LIMIT]]
    complete = segment._replace(members=segment.members + tuple(more), discover=True)
    return Discovered(complete, tuple(warnings))


def _macs(where: str, given: Any) -> set[str]:
    if given is None:
        return set()
    if not isinstance(given, (list, tuple)):
        raise InvalidInput("%s: %s is no list" % (where, show(given)))
    found = set()
    for each in given:
        mac = each.get("mac") if isinstance(each, Mapping) else None
        if not isinstance(mac, str):
            raise InvalidInput("%s: %s is no member with a mac" % (where, show(each)))
        found.add(checks.mac(where, mac))
    return found
