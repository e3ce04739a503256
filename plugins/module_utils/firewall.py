# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Firewalls that a host may run, and what they have to let through for the overlay to work.

Pure: reads what nft and firewall-cmd print, says what to tell them.

Two are known: firewalld, and the table ``inet filter`` that a distribution's nftables.conf starts
with. In a table of our own a packet could be accepted, and yet be dropped by theirs, so our
rules have to stand in theirs. Each has a comment that names it ours and says what it does, which
is what it is compared by.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

OURS = "flatnet.overlay: "


class Needs(NamedTuple):
    """What has to pass: the backend's UDP port (None: it has none) and the overlay's network."""

    port: int | None
    network: str


class Rule(NamedTuple):
    """A rule of ours in a chain of ``inet filter``; ``handle`` 0 until the kernel has it."""

    chain: str
    text: str
    handle: int = 0

    def __str__(self) -> str:
        return 'inet filter %s %s comment "%s%s"' % (self.chain, self.text, OURS, self.text)


class Zone(NamedTuple):
    """A zone of firewalld, so far as it matters here."""

    interfaces: frozenset[str]
    sources: frozenset[str]
    ports: frozenset[str]


# --- nftables -----------------------------------------------------------------------------------


def nft_rules(listing: str) -> tuple[list[Rule], dict[str, str]]:
    """From ``nft -j list table inet filter``: our rules, and by their hook the chains that filter,
    that is, drop or reject something."""
    rules: list[Rule] = []
    hooks: dict[str, str] = {}
    filtering: set[str] = set()
    for item in json.loads(listing)["nftables"]:
        chain, rule = item.get("chain"), item.get("rule")
        if chain and "hook" in chain:
            hooks[chain["name"]] = chain["hook"]
            if chain.get("policy") == "drop":
                filtering.add(chain["name"])
        elif rule and str(rule.get("comment", "")).startswith(OURS):
            rules.append(Rule(rule["chain"], rule["comment"][len(OURS) :], rule["handle"]))
        elif rule and re.search(r'"(drop|reject)"', json.dumps(rule["expr"])):
            filtering.add(rule["chain"])
    return rules, {hook: name for name, hook in hooks.items() if name in filtering}


def nft_wanted(needs: Needs, filtering: dict[str, str]) -> list[Rule]:
    """The rules to have, where there are chains that filter."""
    wanted = []
    if "input" in filtering:
        chain = filtering["input"]
        if needs.port:
            wanted.append(Rule(chain, "udp dport %d accept" % needs.port))
        # Peers and pods ping the host's gateway address.
        wanted.append(Rule(chain, "ip saddr %s icmp type echo-request accept" % needs.network))
    if "forward" in filtering:
        chain = filtering["forward"]
        wanted.append(Rule(chain, "ip saddr %s accept" % needs.network))
        wanted.append(Rule(chain, "ip daddr %s accept" % needs.network))
    return wanted


def nft_script(wanted: list[Rule], present: list[Rule]) -> str:
    """What makes ``present`` be ``wanted``, for ``nft -f``; empty if it is.

    Inserted, not added: a chain may end by rejecting all.
    """
    keys = {rule[:2] for rule in wanted}
    seen: set[tuple[str, str]] = set()
    lines = []
    for rule in present:
        if rule[:2] not in keys or rule[:2] in seen:
            lines.append("delete rule inet filter %s handle %d" % (rule.chain, rule.handle))
        seen.add(rule[:2])
    lines += ["insert rule %s" % (rule,) for rule in wanted if rule[:2] not in seen]
    return "".join(line + "\n" for line in lines)


def nft_include(conf: str, path: str, wanted: bool) -> str:
    """nftables.conf with, or without, the line that includes our file."""
    line = 'include "%s"\n' % path
    if wanted and line not in conf:
        return conf + ("" if conf.endswith("\n") or not conf else "\n") + line
    return conf if wanted else conf.replace(line, "")


# --- firewalld ----------------------------------------------------------------------------------


def zones(listing: str) -> dict[str, Zone]:
    """From ``firewall-cmd --list-all-zones``."""
    found = {}
    for block in re.split(r"\n(?=\S)", listing.strip()):
        name = block.split(None, 1)[0] if block.split() else ""
        values = {
            key: frozenset(words.split())
            for key, words in re.findall(
                r"^  (interfaces|sources|ports):(.*)$", block, re.MULTILINE
            )
        }
        empty: frozenset[str] = frozenset()
        found[name] = Zone(*(values.get(key, empty) for key in Zone._fields))
    return found


def zone_of(interface: str, known: dict[str, Zone], default: str) -> str:
    """The zone that what arrives by an interface is in."""
    return next((name for name, zone in known.items() if interface in zone.interfaces), default)


def firewalld_changes(
    needs: Needs, zone: str, known: dict[str, Zone], present: bool
) -> list[tuple[str, str]]:
    """Options of firewall-cmd, each with its zone.

    The overlay's network is a source of the zone trusted, which forwards: only so do packets of
    pods pass that arrive by an interface of another zone.
    """
    wanted = [("trusted", "source", needs.network)]
    if needs.port:
        wanted.insert(0, (zone, "port", "%d/udp" % needs.port))
    changes = []
    for name, kind, value in wanted:
        have = value in getattr(known.get(name, Zone(*[frozenset()] * 3)), kind + "s")
        if have != present:
            changes.append((name, "--%s-%s=%s" % ("add" if present else "remove", kind, value)))
    return changes
