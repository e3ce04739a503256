# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a firewall is told, from what it says of itself."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.nftables import (
    Needs,
    Rule,
    nft_include,
    nft_includes,
    nft_inlined,
    nft_rules,
    nft_script,
    nft_wanted,
)

NETWORK = "10.5.0.0/16"
VXLAN = Needs(NETWORK, 8472, device="flannel.1", interface="eth0")
HOST_GW = Needs(NETWORK, interface="eth0", link="172.21.0.0/24")
PING = "iifname cni0 ip daddr 10.5.0.0/16 icmp type echo-request accept"
FILE = "/etc/nftables.d/flatnet.nft"


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
    ping = "ip daddr 10.5.0.0/16 icmp type echo-request accept"
    pods = {
        "iifname cni0 ip saddr 10.5.0.0/16 accept",
        "oifname cni0 ct state established,related accept",
    }
    assert {rule.text for rule in nft_wanted(VXLAN, chains)} == pods | {
        "iifname eth0 udp dport 8472 accept",
        f"iifname cni0 {ping}",
        f"iifname flannel.1 {ping}",
        "iifname flannel.1 oifname cni0 ip daddr 10.5.0.0/16 accept",
    }
    assert {rule.text for rule in nft_wanted(HOST_GW, chains)} == pods | {
        f"iifname cni0 {ping}",
        f"iifname eth0 {ping}",
        "iifname eth0 oifname cni0 ip saddr 10.5.0.0/16 ip daddr 10.5.0.0/16 accept",
        "iifname eth0 oifname cni0 ip saddr 172.21.0.0/24 ip daddr 10.5.0.0/16 accept",
    }


def test_nothing_passes_by_its_source_alone() -> None:
    """Each rule names the interface by which packets come in, or that they are answers to pods."""
    chains = {"input": "input", "forward": "forward"}
    for needs in (VXLAN, HOST_GW, VXLAN._replace(link="172.21.0.0/24", bridge="docker0")):
        for rule in nft_wanted(needs, chains):
            assert rule.text.startswith("iifname ") or "ct state" in rule.text


def test_names_of_interfaces_are_quoted_and_comments_are_not() -> None:
    rule = Rule("forward", "iifname flannel.1 oifname cni0 accept")
    assert str(rule) == (
        'inet filter forward iifname "flannel.1" oifname "cni0" accept '
        'comment "flatnet.overlay: iifname flannel.1 oifname cni0 accept"'
    )


def test_missing_rules_are_inserted_and_stale_or_double_ones_deleted() -> None:
    wanted = nft_wanted(VXLAN, {"input": "input"})
    port, ping, inner = wanted
    assert nft_script(wanted, wanted) == ""
    present = [ping._replace(handle=4), ping._replace(handle=5), Rule("input", "udp dport 1", 6)]
    assert nft_script(wanted, present).splitlines() == [
        "delete rule inet filter input handle 5",
        "delete rule inet filter input handle 6",
        f"insert rule {port}",
        f"insert rule {inner}",
    ]


def test_ours_are_told_by_their_comment() -> None:
    ours = {"chain": "input", "handle": 7, "expr": [], "comment": f"flatnet.overlay: {PING}"}
    foreign = {"chain": "input", "handle": 8, "expr": [], "comment": "ssh"}
    assert nft_rules(listing("drop", ours, foreign))[0] == [Rule("input", PING, 7)]


def test_the_include_is_added_once_and_removed() -> None:
    conf = "flush ruleset\ntable inet filter {}"
    included = nft_include(conf, FILE, True)
    assert included == conf + '\ninclude "/etc/nftables.d/flatnet.nft"\n'
    assert nft_include(included, FILE, True) == included
    assert nft_include(included, FILE, False) == conf + "\n"
    reworded = "  include '/etc/nftables.d/flatnet.nft'; # overlay"
    assert nft_include(reworded, FILE, True) == reworded
    assert nft_include(reworded, FILE, False) == ""


def test_a_pattern_that_covers_our_file_includes_it_and_stays() -> None:
    conf = 'table inet filter {}\ninclude "/etc/nftables.d/*.nft"\n'
    assert nft_include(conf, FILE, True) == conf == nft_include(conf, FILE, False)
    for other in ("/etc/nftables.d/*.conf", "/etc/*/flatnet.nft", "/etc/other/*.nft"):
        assert not nft_includes(f'include "{other}"\n', FILE)
    assert not nft_includes(f'# include "{FILE}"\n', FILE)


def test_what_nft_tries_has_our_rules_in_place_of_the_include() -> None:
    by_name = f'table a\ninclude "{FILE}"\ntable b\n'
    assert nft_inlined(by_name, FILE, "RULES\n") == "table a\nRULES\n\ntable b\n"
    by_pattern = 'include "/etc/nftables.d/*.nft"\ntable b\n'
    assert nft_inlined(by_pattern, FILE, "RULES") == (
        'include "/etc/nftables.d/*.nft"\nRULES\ntable b\n'
    )
    assert nft_inlined('include "/etc/x.nft"\n', FILE, "RULES") == 'include "/etc/x.nft"\n'
