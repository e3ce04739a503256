# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a firewall is told, from what it says of itself."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils.firewall import (
    Needs,
    Rule,
    firewalld_changes,
    nft_include,
    nft_rules,
    nft_script,
    nft_wanted,
    zone_of,
    zones,
)

VXLAN = Needs(8472, "10.5.0.0/16")
HOST_GW = Needs(None, "10.5.0.0/16")
PING = "ip saddr 10.5.0.0/16 icmp type echo-request accept"

# As firewalld 1.3 prints them, shortened, and without blanks at the ends of lines.
LISTING = """\
public (default, active)
  target: default
  interfaces: eth0 eth1
  sources:
  ports: 8472/udp 22/tcp
  forward: yes

trusted (active)
  target: ACCEPT
  interfaces:
  sources: 10.5.0.0/16
  ports:

work
  target: default
  interfaces:
  sources:
  ports:
"""


def listing(policy: str, *rules: dict[str, t.Any]) -> str:
    """What nft -j says of a table with one chain of each hook."""
    items: list[dict[str, t.Any]] = [{"table": {"family": "inet", "name": "filter"}}]
    for hook in ("input", "forward"):
        chain = {"name": hook, "hook": hook, "policy": policy, "handle": 1}
        items.append({"chain": chain})
    return json.dumps({"nftables": items + [{"rule": rule} for rule in rules]})


def test_a_chain_that_lets_all_pass_needs_nothing() -> None:
    rules, filtering = nft_rules(listing("accept", {"chain": "input", "expr": [{"accept": None}]}))
    assert nft_wanted(VXLAN, filtering) == rules == []


def test_a_policy_or_a_rule_that_drops_makes_a_chain_filter() -> None:
    assert set(nft_rules(listing("drop"))[1]) == {"input", "forward"}
    reject = {"chain": "input", "expr": [{"reject": {"type": "tcp reset"}}]}
    assert nft_rules(listing("accept", reject))[1] == {"input": "input"}


def test_what_has_to_pass_depends_on_the_backend() -> None:
    chains = {"input": "input", "forward": "forward"}
    texts = {rule.text for rule in nft_wanted(VXLAN, chains)}
    forwarded = {"ip saddr 10.5.0.0/16 accept", "ip daddr 10.5.0.0/16 accept"}
    assert texts == {"udp dport 8472 accept", PING} | forwarded
    assert {rule.text for rule in nft_wanted(HOST_GW, chains)} == {PING} | forwarded


def test_missing_rules_are_inserted_and_stale_or_double_ones_deleted() -> None:
    wanted = nft_wanted(VXLAN, {"input": "input"})
    port, ping = wanted
    assert nft_script(wanted, wanted) == ""
    present = [ping._replace(handle=4), ping._replace(handle=5), Rule("input", "udp dport 1", 6)]
    assert nft_script(wanted, present).splitlines() == [
        "delete rule inet filter input handle 5",
        "delete rule inet filter input handle 6",
        f"insert rule {port}",
    ]


def test_ours_are_told_by_their_comment() -> None:
    ours = {"chain": "input", "handle": 7, "expr": [], "comment": f"flatnet.overlay: {PING}"}
    foreign = {"chain": "input", "handle": 8, "expr": [], "comment": "ssh"}
    assert nft_rules(listing("drop", ours, foreign))[0] == [Rule("input", PING, 7)]


def test_the_include_is_added_once_and_removed() -> None:
    conf = "flush ruleset\ntable inet filter {}"
    included = nft_include(conf, "/etc/nftables.d/flatnet.nft", True)
    assert included == conf + '\ninclude "/etc/nftables.d/flatnet.nft"\n'
    assert nft_include(included, "/etc/nftables.d/flatnet.nft", True) == included
    assert nft_include(included, "/etc/nftables.d/flatnet.nft", False) == conf + "\n"


def test_firewalld_zones_are_read() -> None:
    known = zones(LISTING)
    assert list(known) == ["public", "trusted", "work"]
    assert known["public"].ports == {"8472/udp", "22/tcp"}
    assert zone_of("eth1", known, "work") == "public"
    assert zone_of("eth9", known, "work") == "work"


def test_firewalld_is_told_what_it_lacks_only() -> None:
    known = zones(LISTING)
    assert firewalld_changes(VXLAN, "public", known, True) == []
    assert firewalld_changes(VXLAN, "work", known, True) == [("work", "--add-port=8472/udp")]
    assert firewalld_changes(VXLAN, "public", known, False) == [
        ("public", "--remove-port=8472/udp"),
        ("trusted", "--remove-source=10.5.0.0/16"),
    ]
    assert firewalld_changes(HOST_GW, "work", {}, True) == [("trusted", "--add-source=10.5.0.0/16")]
