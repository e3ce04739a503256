# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What firewalld is told, from what it says of itself."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import firewalld
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.firewalld import (
    Configuration,
    listed,
    lost,
    permanent_changes,
    rebound,
    running_changes,
    wanted,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.nftables import Needs

NETWORK = "10.5.0.0/16"
VXLAN = Needs(NETWORK, 8472, device="flannel.1", interface="eth0")
HOST_GW = Needs(NETWORK, interface="eth0", link="172.21.0.0/24")
DIRECT = VXLAN._replace(link="172.21.0.0/24")

# As firewalld 1.3 prints them, shortened, and without blanks at the ends of lines.
ZONES = """\
public (default, active)
  target: default
  interfaces: eth1
  sources:
  services: dhcpv6-client ssh
  ports: 22/tcp
  forward: yes
  rich rules:

trusted
  target: ACCEPT
  interfaces:
  sources:
  services:
  ports:
  rich rules:

work (active)
  target: default
  interfaces: eth2
  sources: 10.5.0.0/16
  ports:
  rich rules:
	rule family="ipv4" source address="192.0.2.1" reject
	rule family="ipv4" source address="192.0.2.2" reject
"""
POLICIES = """\
allow-host-ipv6 (active)
  priority: -15000
  target: CONTINUE
  ingress-zones: ANY
  egress-zones: HOST
  rich rules:
	rule family="ipv6" icmp-type name="redirect" accept
"""


def configuration() -> Configuration:
    return Configuration(listed(ZONES), listed(POLICIES))


def after(start: Configuration, commands: t.Iterable[list[str]]) -> Configuration:
    """What a configuration is when firewalld has done these."""
    plurals = {value: key for key, value in firewalld._SINGULAR.items()}
    parts: dict[str, dict[str, dict[str, t.Any]]] = {
        "zone": {name: dict(each) for name, each in start.zones.items()},
        "policy": {name: dict(each) for name, each in start.policies.items()},
    }
    for command in commands:
        done = re.fullmatch(r"--(new|delete)-(zone|policy)=(.*)", command[0])
        if done:
            verb, kind, name = done.groups()
            if verb == "new":
                assert name not in parts[kind]
                parts[kind][name] = dict.fromkeys(plurals.values(), frozenset())
            else:
                del parts[kind][name]
            continue
        kind, name = command[0].lstrip("-").split("=")
        verb, singular, value = t.cast(
            "re.Match[str]", re.fullmatch(r"--(add|remove|change)-([a-z-]+)=(.*)", command[1])
        ).groups()
        key, settings = plurals[singular], parts[kind][name]
        if verb == "change":
            for other in parts[kind].values():
                other[key] = other[key] - {value}
        assert (value in settings[key]) == (verb == "remove")
        settings[key] = settings[key] - {value} if verb == "remove" else settings[key] | {value}
    return Configuration(parts["zone"], parts["policy"])


def converged(needs: Needs, start: Configuration, present: bool = True) -> Configuration:
    wish = wanted(needs, start, start, "public", present)
    found = after(start, permanent_changes(wish, start, present))
    wish = wanted(needs, found, found, "public", present)
    assert permanent_changes(wish, found, present) == []
    assert running_changes(wish, found, present) == []
    return found


def test_what_it_lists_is_read() -> None:
    found = listed(ZONES)
    assert list(found) == ["public", "trusted", "work"]
    assert found["public"]["ports"] == {"22/tcp"}
    assert found["work"]["rich rules"] == {
        'rule family="ipv4" source address="192.0.2.1" reject',
        'rule family="ipv4" source address="192.0.2.2" reject',
    }
    assert listed(POLICIES)["allow-host-ipv6"]["ingress-zones"] == {"ANY"}
    assert configuration().bound("eth2") == "work"
    assert configuration().bound("eth9") == configuration().bound("") == ""


def test_the_network_is_trusted_by_interface_and_never_by_its_addresses() -> None:
    """A source binding of an earlier version goes; one in another zone is somebody else's."""
    start = configuration()
    earlier = after(start, [["--zone=trusted", "--add-source=10.5.0.0/16"]])
    for needs in (VXLAN, HOST_GW, DIRECT):
        found = converged(needs, earlier)
        assert found.zones["trusted"]["sources"] == set()
        assert found.zones["flatnet"]["interfaces"] == {"cni0"}
        assert found.zones["work"]["sources"] == {NETWORK}
    assert converged(VXLAN, earlier, present=False) == start


def test_policies_forward_what_the_backend_needs() -> None:
    vxlan, host_gw = converged(VXLAN, configuration()), converged(HOST_GW, configuration())
    assert vxlan.zones["flatnet-tunnel"]["interfaces"] == {"flannel.1"}
    assert vxlan.zones["public"]["ports"] == {"22/tcp", "8472/udp"}
    assert set(vxlan.policies) == {"allow-host-ipv6", "flatnet-out", "flatnet-in"}
    assert vxlan.policies["flatnet-in"]["ingress-zones"] == {"flatnet-tunnel"}
    assert vxlan.policies["flatnet-in"]["egress-zones"] == {"flatnet"}
    assert "flatnet-tunnel" not in host_gw.zones
    assert set(host_gw.policies) == {"allow-host-ipv6", "flatnet-out", "flatnet-link"}
    assert host_gw.policies["flatnet-link"]["ingress-zones"] == {"ANY"}
    second = converged(HOST_GW._replace(interface="eth2"), configuration())
    assert second.policies["flatnet-link"]["ingress-zones"] == {"work"}
    assert second.policies["flatnet-link"]["rich rules"] == {
        f'rule family="ipv4" source address="{source}" destination address="10.5.0.0/16" accept'
        for source in ("10.5.0.0/16", "172.21.0.0/24")
    }


@pytest.mark.parametrize("first", [VXLAN, HOST_GW, DIRECT])
@pytest.mark.parametrize("second", [VXLAN, HOST_GW, DIRECT._replace(network="10.6.0.0/16")])
def test_from_one_backend_to_another_and_away_again(first: Needs, second: Needs) -> None:
    """A new backend's port is opened; that of an earlier one cannot be told from somebody's own."""
    found = converged(second, converged(first, configuration()))
    fresh = converged(second, configuration())
    assert found.policies == fresh.policies
    assert {name: each["interfaces"] for name, each in found.zones.items()} == {
        name: each["interfaces"] for name, each in fresh.zones.items()
    }
    gone = converged(second, found, present=False)
    assert gone.policies == configuration().policies
    assert gone.zones.keys() == configuration().zones.keys()


def test_the_port_is_closed_wherever_it_was_opened() -> None:
    """Whoever removes a host does not say which interface was the underlay's. It may be in a zone
    that is not the default one."""
    start = configuration()
    for needs in (VXLAN, VXLAN._replace(interface="eth2")):
        found = converged(needs, start)
        zone = "work" if needs.interface == "eth2" else "public"
        assert "8472/udp" in found.zones[zone]["ports"]
        assert converged(Needs(NETWORK, 8472), found, present=False) == start


def test_a_bridge_that_somebody_put_into_a_zone_stays_there() -> None:
    start = after(configuration(), [["--zone=work", "--add-interface=docker0"]])
    found = converged(VXLAN._replace(bridge="docker0"), start)
    assert found.zones["work"]["interfaces"] == {"docker0", "eth2"}
    assert "flatnet" not in found.zones
    assert found.policies["flatnet-in"]["egress-zones"] == {"work"}
    assert found.policies["flatnet-out"]["ingress-zones"] == {"work"}


def test_a_new_zone_takes_a_reload_and_no_other_change_does() -> None:
    start = configuration()
    wish = wanted(VXLAN, start, start, "public", True)
    assert running_changes(wish, start, True) is None
    made = converged(VXLAN, start)
    stale = after(made, [["--zone=flatnet", "--remove-interface=cni0"]])
    wish = wanted(VXLAN, stale, made, "public", True)
    assert running_changes(wish, stale, True) == [["--zone=flatnet", "--change-interface=cni0"]]


def test_what_a_reload_would_take_away_is_named() -> None:
    permanent = configuration()
    running = after(
        permanent,
        [
            ["--zone=public", "--add-rich-rule=rule banned"],
            ["--zone=trusted", "--add-interface=eth7"],
            ["--policy=allow-host-ipv6", "--add-egress-zone=work"],
        ],
    )
    wish = wanted(VXLAN, running, permanent, "public", True)
    assert lost(wish, permanent, permanent) == []
    earlier = after(permanent, [["--zone=trusted", "--add-source=10.5.0.0/16"]])
    assert lost(wish, earlier, permanent) == []  # an interrupted run has removed it already
    assert lost(wish, running, permanent) == [
        "zone public, rich rules rule banned",
        "policy allow-host-ipv6, egress-zones work",
    ]
    assert rebound(running, permanent) == [["--zone=trusted", "--add-interface=eth7"]]
