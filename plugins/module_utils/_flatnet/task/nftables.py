# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's firewall has to let through for the overlay, and the rules for nftables.

Pure: takes what nft prints, and returns what to give it. firewalld.py does the same for firewalld.

A packet's source proves nothing, so the rules look at the interface that a packet comes in by:

- from the underlay, to the host: the backend's UDP port;
- from the bridge: what pods send, wherever the host forwards it, and the answers to it;
- from the backend's device, to the bridge: what peers send to pods;
- from the underlay, to the bridge: the same, only where peers send without a tunnel (host-gw,
  direct routing), and only from the overlay's network and the underlay's, which is the link that
  peers share;
- to the host: pings of its own addresses in the overlay. Pods and peers reach nothing else of it.

With nftables our rules are in the table ``inet filter``, which a distribution's nftables.conf
starts with. If a table of our own accepted a packet, that other table could still drop it. Each
rule has a comment that says that it is ours and what it does. Rules are compared by this comment.
"""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Callable, NamedTuple

OURS = "flatnet.overlay: "
_INCLUDE = re.compile(r"""^[ \t]*include[ \t]+["']([^"']*)["'][ \t;]*(?:#.*)?$""", re.MULTILINE)


class Needs(NamedTuple):
    """What has to pass.

    ``port`` and ``device`` are the backend's (None, or empty: it has none), ``interface`` the
    underlay's (empty: packets may come in by any), ``link`` the network of the underlay's link
    where peers send packets of pods without a tunnel, else empty.
    """

    network: str
    port: int | None = None
    bridge: str = "cni0"
    device: str = ""
    interface: str = ""
    link: str = ""


class Rule(NamedTuple):
    """A rule of ours in a chain of ``inet filter``; ``handle`` 0 until the kernel has it."""

    chain: str
    text: str
    handle: int = 0

    def __str__(self) -> str:
        # A comment cannot hold quotes; only names of interfaces need them.
        quoted = re.sub(r"(?<=[io]ifname )(\S+)", r'"\1"', self.text)
        return 'inet filter %s %s comment "%s%s"' % (self.chain, quoted, OURS, self.text)


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
    underlay = "iifname %s " % needs.interface if needs.interface else ""
    source, target = "ip saddr %s " % needs.network, "ip daddr %s " % needs.network
    inward = ["iifname %s " % name for name in (needs.bridge, needs.device) if name]
    inward += [underlay] if needs.link else []
    wanted = []
    if "input" in filtering:
        chain = filtering["input"]
        if needs.port:
            wanted.append(Rule(chain, "%sudp dport %d accept" % (underlay, needs.port)))
        ping = target + "icmp type echo-request accept"
        wanted += [Rule(chain, each + ping) for each in inward]
    if "forward" in filtering:
        pods = "oifname %s " % needs.bridge
        texts = ["iifname %s " % needs.bridge + source, pods + "ct state established,related "]
        if needs.device:
            texts.append("iifname %s " % needs.device + pods + target)
        if needs.link:
            texts.append(underlay + pods + source + target)
            texts.append(underlay + pods + "ip saddr %s " % needs.link + target)
        wanted += [Rule(filtering["forward"], text + "accept") for text in texts]
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


def nft_includes(conf: str, path: str) -> bool:
    """Whether nftables.conf includes the file, by its name or by a pattern."""
    return any(map(_covers(path), _INCLUDE.findall(conf)))


def nft_include(conf: str, path: str, wanted: bool) -> str:
    """nftables.conf with, or without, the line that includes our file."""
    if wanted:
        if nft_includes(conf, path):
            return conf
        end = "" if conf.endswith("\n") or not conf else "\n"
        return '%s%sinclude "%s"\n' % (conf, end, path)
    lines = conf.splitlines(keepends=True)
    return "".join(line for line in lines if _INCLUDE.findall(line) != [path])


def nft_inlined(conf: str, path: str, rules: str) -> str:
    """nftables.conf as it is with this in our file: what to try before either is written."""
    covers = _covers(path)

    def put(match: re.Match[str]) -> str:
        if not covers(match[1]):
            return match[0]
        return rules if match[1] == path else "%s\n%s" % (match[0], rules)

    return _INCLUDE.sub(put, conf)


def _covers(path: str) -> Callable[[str], bool]:
    folder, _slash, name = path.rpartition("/")

    def covers(pattern: str) -> bool:
        inside, _slash, names = pattern.rpartition("/")
        return inside == folder and fnmatch.fnmatchcase(name, names)

    return covers
