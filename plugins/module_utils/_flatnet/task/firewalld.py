# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of firewalld that let through what nftables.py says.

Pure: takes what firewall-cmd prints, and returns its next commands.

firewalld decides by zones. The bridge and the backend's device each get a zone of ours, by
interface; from one zone to another it forwards what a policy accepts, and we have three:

- ``flatnet-out``: what pods send, to anywhere;
- ``flatnet-in``: what comes out of the backend's device, to pods;
- ``flatnet-link``: what peers send without a tunnel, to pods.

Answers pass by themselves. In our zones the host answers to pings only, until somebody adds
services to them. A bridge that is in a zone already, as Docker puts its own into one, stays
there: the policies then name that zone.

firewalld's configuration is twice there, permanent and running. A new zone or policy gets from
the one to the other only by a reload, which the rest of what runs and is not permanent would not
survive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .nftables import Needs

BRIDGE_ZONE, DEVICE_ZONE = "flatnet", "flatnet-tunnel"
OUT, IN, LINK = "flatnet-out", "flatnet-in", "flatnet-link"
ZONES, POLICIES = (BRIDGE_ZONE, DEVICE_ZONE), (OUT, IN, LINK)

# How firewall-cmd calls one of what it lists in plural.
_SINGULAR = {
    "interfaces": "interface",
    "sources": "source",
    "ports": "port",
    "ingress-zones": "ingress-zone",
    "egress-zones": "egress-zone",
    "rich rules": "rich-rule",
}
# These come back after a reload: whoever bound one binds it again, or we do.
_BOUND = "interfaces"

#: A zone's or policy's settings: each has a set of values.
Settings = Mapping[str, frozenset[str]]


class Configuration(NamedTuple):
    """The permanent or the running one: zones and policies by their names."""

    zones: Mapping[str, Settings]
    policies: Mapping[str, Settings]

    def bound(self, interface: str) -> str:
        """The zone that the interface is put into; empty if into none."""
        return next(
            (n for n, zone in self.zones.items() if interface and interface in zone[_BOUND]), ""
        )


def listed(text: str) -> dict[str, Settings]:
    """From ``firewall-cmd --list-all-zones`` and ``--list-all-policies``."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    settings: dict[str, frozenset[str]] = {}
    key = ""
    for line in text.splitlines():
        if re.match(r"\S", line):
            settings = found.setdefault(line.split()[0], dict.fromkeys(_SINGULAR, frozenset()))
        elif line.startswith("  ") and ":" in line:
            key, _colon, values = line.strip().partition(":")
            settings[key] = frozenset(values.split())
        elif line.strip():  # a rich rule, below their heading
            settings[key] |= {line.strip()}
    return dict(found)


def wanted_policies(needs: Needs, pods: str, underlay: str) -> dict[str, Settings]:
    """The policies to have; ``pods`` is the bridge's zone, ``underlay`` the zone that its interface
    is put into, if it is."""

    def policy(ingress: str, egress: str, *rules: str) -> Settings:
        texts = ['rule family="ipv4" %s accept' % rule for rule in rules]
        return {
            "ingress-zones": frozenset([ingress]),
            "egress-zones": frozenset([egress]),
            "rich rules": frozenset(texts),
        }

    source, target = ('%s address="%s"' % (w, needs.network) for w in ("source", "destination"))
    found = {OUT: policy(pods, "ANY", source)}
    if needs.device:
        found[IN] = policy(DEVICE_ZONE, pods, target)
    if needs.link:
        link = 'source address="%s"' % needs.link
        # A policy does not see the default zone's interfaces that nobody has put there by name.
        rules = ("%s %s" % (source, target), "%s %s" % (link, target))
        found[LINK] = policy(underlay or "ANY", pods, *rules)
    return found


class Wanted(NamedTuple):
    """What to have: zones with their interface, policies, and a port, open in some zones."""

    zones: Mapping[str, str]
    policies: Mapping[str, Settings]
    port: str
    port_zones: tuple[str, ...]
    network: str


def wanted(
    needs: Needs, running: Configuration, permanent: Configuration, default: str, present: bool
) -> Wanted:
    underlay = running.bound(needs.interface)
    port = "%d/udp" % needs.port if needs.port else ""
    where: tuple[str, ...] = (underlay or default,) if port else ()
    if not present:
        if port and not needs.interface:
            # Which one was the underlay's nobody says: it is open where packets can come in.
            active = {name for name, zone in running.zones.items() if zone[_BOUND]}
            where = tuple(sorted(active | {default}))
        return Wanted({}, {}, port, where, needs.network)
    pods = running.bound(needs.bridge) or permanent.bound(needs.bridge) or BRIDGE_ZONE
    zones = {DEVICE_ZONE: needs.device} if needs.device else {}
    if pods == BRIDGE_ZONE:
        zones[pods] = needs.bridge
    return Wanted(zones, wanted_policies(needs, pods, underlay), port, where, needs.network)


def permanent_changes(wish: Wanted, permanent: Configuration, present: bool) -> list[list[str]]:
    """Options of firewall-cmd, a command each, to be given with --permanent."""
    made, gone = [], []
    kinds = (
        ("policy", POLICIES, permanent.policies, wish.policies),  # they name zones, so go first
        ("zone", ZONES, permanent.zones, wish.zones),
    )
    for kind, ours, known, names in kinds:
        made += [["--new-%s=%s" % (kind, name)] for name in names if name not in known]
        gone += [(kind, name) for name in ours if name in known and name not in names]
    doomed = {"--%s=%s" % each for each in gone}
    settings = [each for each in _settings(wish, permanent, present) if each[0] not in doomed]
    return made[::-1] + settings + [["--delete-%s=%s" % each] for each in gone]


def running_changes(wish: Wanted, running: Configuration, present: bool) -> list[list[str]] | None:
    """Options of firewall-cmd, a command each; None if it takes a reload.

    Zones and policies that are not wanted are emptied, and gone after the next reload.
    """
    if (
        wish.zones.keys() <= running.zones.keys()
        and wish.policies.keys() <= running.policies.keys()
    ):
        return _settings(wish, running, present)
    return None


def _settings(wish: Wanted, known: Configuration, present: bool) -> list[list[str]]:
    """What makes the settings of one configuration as they should be."""
    changes: list[list[str]] = []
    nothing: frozenset[str] = frozenset()
    for zone in ZONES:
        have = known.zones.get(zone, {}).get(_BOUND, nothing)
        if zone in wish.zones:
            interface = wish.zones[zone]
            if interface not in have:
                # Also takes it out of the zone that it is in.
                changes.append(_option("zone", zone, "change", _BOUND, interface))
            have = frozenset(each for each in have - {interface} if _ours(each))
        changes += [_option("zone", zone, "remove", _BOUND, each) for each in sorted(have)]
    for name in POLICIES:
        settings, policy = known.policies.get(name, {}), wish.policies.get(name, {})
        for key in ("ingress-zones", "egress-zones", "rich rules"):
            have, want = settings.get(key, nothing), policy.get(key, nothing)
            # A policy has one zone at each end: the old one leaves first.
            changes += [_option("policy", name, "remove", key, v) for v in sorted(have - want)]
            changes += [_option("policy", name, "add", key, v) for v in sorted(want - have)]
    for zone in wish.port_zones:
        if (wish.port in known.zones.get(zone, {}).get("ports", nothing)) != present:
            verb = "add" if present else "remove"
            changes.append(_option("zone", zone, verb, "ports", wish.port))
    # Earlier versions trusted the whole network by its addresses, by whatever interface it came.
    if wish.network in known.zones.get("trusted", {}).get("sources", nothing):
        changes.append(_option("zone", "trusted", "remove", "sources", wish.network))
    return changes


def _ours(interface: str) -> bool:
    """Whether an interface has the name of a device of the overlay."""
    return re.fullmatch(r"flannel(0|\.\d+)", interface) is not None


def _option(kind: str, name: str, verb: str, key: str, value: str) -> list[str]:
    return ["--%s=%s" % (kind, name), "--%s-%s=%s" % (verb, _SINGULAR[key], value)]


# --- reloads ------------------------------------------------------------------------------------


def lost(wish: Wanted, running: Configuration, permanent: Configuration) -> list[str]:
    """The settings that a reload would lose. Interfaces in zones do not count, nor settings that
    are removed anyway: an interrupted run may have removed these from the permanent ones
    already."""
    found = []
    unwanted = {"zone trusted, sources %s" % wish.network}
    for kind, have, kept in (
        ("zone", running.zones, permanent.zones),
        ("policy", running.policies, permanent.policies),
    ):
        for name, settings in have.items():
            if name in ZONES + POLICIES:
                continue
            for key, values in settings.items():
                if key != _BOUND:
                    gone = values - kept.get(name, {}).get(key, frozenset())
                    found += ["%s %s, %s %s" % (kind, name, key, value) for value in sorted(gone)]
    return [each for each in found if each not in unwanted]


def rebound(before: Configuration, after: Configuration) -> list[list[str]]:
    """Options that put back interfaces that a reload has taken out of their zones."""
    return [
        _option("zone", zone, "add", _BOUND, interface)
        for zone, settings in before.zones.items()
        for interface in sorted(settings[_BOUND])
        if not after.bound(interface) and zone in after.zones
    ]


def lines(commands: Iterable[list[str]]) -> list[str]:
    """As a person would type them."""
    return ["firewall-cmd %s\n" % " ".join(words) for words in commands]
