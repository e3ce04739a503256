# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules segment and segment_info on a real kernel: one host, whose peers are only named."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.segments import (
    bridge_mac,
    device_mac,
)

from tests.integration.namespace import HOST_ID, Namespace, same
from tests.lab.waiting import wait

DEVICE, BRIDGE = "vxlan100", "br100"
VTEPS = {"host1": "172.30.1.11", "host2": "172.30.1.12", "host3": "172.30.1.13"}
MEMBERS = [
    {
        "host": f"host{number}",
        "mac": f"02:00:00:00:00:0{number}",
        "addresses": [f"3.3.3.{number}", f"fd00:3::{number}"],
    }
    for number in (1, 2, 3)
]
BLUE: dict[str, t.Any] = {
    "name": "blue",
    "vni": 100,
    "host": "host1",
    "host_id": HOST_ID,
    "vteps": VTEPS,
    "members": MEMBERS,
}
MODES: dict[str, dict[str, t.Any]] = {
    "static": {"mode": "static"},
    "proxy": {"mode": "proxy"},
    "silent": {"mode": "proxy", "replicate": False},
    "multicast": {"mode": "multicast", "group": "239.1.1.1"},
    "flood": {"mode": "flood"},
}

# What an administrator writes: every line on its own, on this host.
BY_HAND = {
    "static": f"""
ip link add {BRIDGE} mtu 1449 address {bridge_mac(HOST_ID, BRIDGE)} type bridge
ip link set {BRIDGE} mtu 1450 up
ip link add {DEVICE} address {device_mac(HOST_ID, 100, "blue")} type vxlan id 100 dstport 4789 \
  local 172.30.1.11 dev u0 nolearning
ip link set {DEVICE} mtu 1450 master {BRIDGE} up
bridge fdb append 02:00:00:00:00:02 dev {DEVICE} dst 172.30.1.12
bridge fdb append 02:00:00:00:00:03 dev {DEVICE} dst 172.30.1.13
bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 172.30.1.12
bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 172.30.1.13
""",
    "silent": f"""
ip link add {BRIDGE} mtu 1449 address {bridge_mac(HOST_ID, BRIDGE)} type bridge
ip link set {BRIDGE} mtu 1450 up
ip link add {DEVICE} address {device_mac(HOST_ID, 100, "blue")} type vxlan id 100 dstport 4789 \
  local 172.30.1.11 dev u0 nolearning proxy
ip link set {DEVICE} mtu 1450 master {BRIDGE} up
bridge link set dev {DEVICE} neigh_suppress on
bridge fdb append 02:00:00:00:00:02 dev {DEVICE} dst 172.30.1.12
bridge fdb append 02:00:00:00:00:03 dev {DEVICE} dst 172.30.1.13
ip neighbor add 3.3.3.2 lladdr 02:00:00:00:00:02 dev {DEVICE} nud permanent
ip neighbor add 3.3.3.3 lladdr 02:00:00:00:00:03 dev {DEVICE} nud permanent
ip neighbor add fd00:3::2 lladdr 02:00:00:00:00:02 dev {DEVICE} nud permanent
ip neighbor add fd00:3::3 lladdr 02:00:00:00:00:03 dev {DEVICE} nud permanent
""",
}
BY_HAND["proxy"] = (
    BY_HAND["silent"]
    + f"""
bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 172.30.1.12
bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 172.30.1.13
"""
)


@pytest.mark.parametrize("mode", BY_HAND)
def test_the_same_as_by_hand(ns: Namespace, mode: str) -> None:
    ns.settle("segment", **BLUE, **MODES[mode])
    made = ns.state(indexes=False)
    ns.settle("segment", **BLUE, state="absent")
    ns.sh(BY_HAND[mode])
    same(ns.state(indexes=False), made)


def test_each_mode_becomes_each_other_and_nothing_stays(ns: Namespace) -> None:
    empty = ns.state(indexes=False)
    alone: dict[str, str] = {}
    for mode, options in MODES.items():
        ns.settle("segment", **BLUE, **options)
        alone[mode] = ns.state(indexes=False)
        ns.settle("segment", **BLUE, state="absent")
        same(empty, ns.state(indexes=False))
    assert len(set(alone.values())) == len(MODES)
    # A way that takes each step from one mode to another once.
    way = ["static"]
    left = {(one, two) for one in MODES for two in MODES if one != two}
    while left:
        here = way[-1]
        way.append(next((two for one, two in sorted(left) if one == here), min(left)[0]))
        left.discard((here, way[-1]))
    for one, two in zip(["", *way], way):
        if one == two:
            continue
        done = ns.make("segment", **BLUE, **MODES[two])
        same(alone[two], ns.state(indexes=False))
        # The kernel cannot change these two options of a live device.
        anew = {each for each in (one, two) if each in ("proxy", "silent", "multicast")}
        recreated = bool(one and anew and anew != {"proxy", "silent"})
        assert bool(done["recreated"]) == recreated, (one, two)


def test_what_was_learned_is_forgotten_when_nothing_is_learned_any_more(ns: Namespace) -> None:
    ns.settle("segment", **BLUE, mode="flood")
    ns.sh(
        f"bridge fdb add 02:00:00:00:00:77 dev {DEVICE} dst 172.30.1.13 self dynamic",
        f"bridge fdb add 02:00:00:00:00:02 dev {DEVICE} dst 172.30.1.13 self dynamic",
    )
    assert "fdb 02:00:00:00:00:77" in ns.make("segment", **BLUE)["diff"]["before"]
    table = ns.sh(f"bridge fdb show dev {DEVICE}")
    assert "02:00:00:00:00:77" not in table
    assert "02:00:00:00:00:02 dst 172.30.1.12 self permanent" in table


def test_a_member_that_moves_leaves_no_entry(ns: Namespace) -> None:
    ns.settle("segment", **BLUE, mode="proxy")
    moved = [MEMBERS[0], {**MEMBERS[1], "host": "host3"}, {**MEMBERS[2], "host": "host1"}]
    done = ns.settle("segment", **{**BLUE, "members": moved}, mode="proxy")
    assert done["recreated"] == []
    state = ns.state()
    assert "02:00:00:00:00:02 dev vxlan100 dst 172.30.1.13 self permanent" in state
    assert "02:00:00:00:00:03" not in state
    assert "3.3.3.3" not in state


def test_strangers_go_and_other_devices_stay(ns: Namespace) -> None:
    ns.sh(
        "ip link add flannel.1 type vxlan id 1 dstport 8472 nolearning dev u0",
        "ip address add 10.5.1.0/32 dev flannel.1",
        "ip link set flannel.1 up",
        "bridge fdb append 02:00:00:00:00:09 dev flannel.1 dst 172.30.1.12",
    )
    before = ns.state(indexes=False)
    ns.settle("segment", **BLUE, mode="proxy")
    wanted = ns.state()
    ns.sh(
        f"bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 172.30.1.99",
        f"bridge fdb append 02:00:00:00:00:99 dev {DEVICE} dst 172.30.1.99",
        f"bridge fdb replace 02:00:00:00:00:02 dev {DEVICE} dst 172.30.1.99",
        f"ip neighbor add 3.3.3.99 lladdr 02:00:00:00:00:99 dev {DEVICE} nud permanent",
        f"bridge link set dev {DEVICE} neigh_suppress off",
        f"ip link set {DEVICE} down mtu 1400 nomaster",
    )
    ns.settle("segment", **BLUE, mode="proxy")
    same(wanted, ns.state())
    ns.settle("segment", **BLUE, state="absent")
    same(before, ns.state(indexes=False))


def test_a_bridge_in_use_is_kept(ns: Namespace) -> None:
    ns.settle("segment", **BLUE)
    ns.sh("ip link add pod1 type veth peer name eth9", f"ip link set pod1 master {BRIDGE}")
    done = ns.make("segment", **BLUE, state="absent")
    assert done["kept"] == "bridge br100 still has the ports pod1"
    assert done["kept"] in str(done["warnings"])
    assert DEVICE not in ns.links()
    ns.sh("ip link del pod1", f"ip address add 3.3.3.254/24 dev {BRIDGE}")
    again = ns.make("segment", **BLUE, state="absent")
    assert not again["changed"]
    assert again["kept"] == "bridge br100 has the addresses 3.3.3.254/24"
    ns.sh(
        f"ip address flush dev {BRIDGE}",
        f"ip link add other type vxlan id 7 dstport 4790 dev {BRIDGE}",
    )
    again = ns.make("segment", **BLUE, state="absent")
    assert again["kept"] == "bridge br100 has other on top"
    ns.sh("ip link del other")
    ns.make("segment", **BLUE, state="absent")
    assert BRIDGE not in ns.links()


def test_a_device_on_which_another_one_stands_is_not_removed(ns: Namespace) -> None:
    ns.settle("segment", **BLUE)
    ns.sh(f"ip link add other type vxlan id 7 dstport 4790 dev {DEVICE}")
    for options in ({"state": "absent"}, {"mode": "proxy"}, {"vni": 200}):
        told = ns.refuse("segment", **{**BLUE, **options})
        assert "vxlan100 would be removed, and other with it, which stands on it" in told
    # What changes in place may.
    ns.settle("segment", **BLUE, mode="flood")


@pytest.mark.parametrize(
    "options",
    [
        {"vni": 200},
        {"vni": 200, "bridge": BRIDGE},
        {"vni": 200, "device": DEVICE},
        {"device": "other"},
        {"bridge": "other"},
        {"device": "other", "bridge": "another", "port": 4790},
        {"name": "green"},
        {"name": "green", "device": "other"},
    ],
)
def test_what_a_segment_was_before_is_gone(ns: Namespace, options: dict[str, t.Any]) -> None:
    empty = ns.state(indexes=False)
    former = {**BLUE, "mode": "proxy"}
    changed = {**former, **options}
    ns.settle("segment", **changed)
    alone = ns.state(indexes=False)
    ns.make("segment", **changed, state="absent")
    same(empty, ns.state(indexes=False))
    ns.settle("segment", **former)
    ns.settle("segment", **changed)
    same(alone, ns.state(indexes=False))
    # It leaves without a run between.
    if "name" not in options:
        ns.make("segment", **former)
        ns.make("segment", **changed, state="absent")
        same(empty, ns.state(indexes=False))


def test_a_former_bridge_in_use_is_kept_and_so_are_other_segments(ns: Namespace) -> None:
    red = {**BLUE, "name": "red", "vni": 300}
    ns.settle("segment", **red)
    ns.settle("segment", **BLUE)
    ns.sh("ip link add pod1 type veth peer name eth9", f"ip link set pod1 master {BRIDGE}")
    done = ns.settle("segment", **{**BLUE, "vni": 200})
    assert done["kept"] == "bridge br100 still has the ports pod1"
    assert "kept: bridge br100" in str(done["warnings"])
    assert {BRIDGE, "br200", "vxlan200", "br300", "vxlan300"} <= set(ns.links())
    assert DEVICE not in ns.links()
    assert not ns.make("segment", **red)["changed"]


def test_a_bridge_of_somebody_else_is_used_and_left(ns: Namespace) -> None:
    ns.sh("ip link add br9 type bridge", "ip link set br9 mtu 1400 up")
    before = ns.state(indexes=False)
    ns.settle("segment", **BLUE, bridge="br9", mode="flood")
    assert ns.links()[DEVICE]["master"] == "br9"
    assert ns.links()["br9"]["mtu"] == 1400
    done = ns.make("segment", **BLUE, bridge="br9", state="absent")
    assert done["kept"] == "bridge br9 was not made for the segment"
    # The kernel gives a bridge without a MAC address of its own those of its ports.
    links = ns.links()
    assert set(links) == {"lo", "u0", "u1", "br9"}
    assert links["br9"]["mtu"] == 1400
    assert "br9" in before


def test_a_bridge_of_somebody_else_keeps_its_mac_address_and_its_mtu_is_told(
    ns: Namespace,
) -> None:
    ns.sh(
        "ip link add br9 type bridge",
        "ip link add pod1 address fa:00:00:00:00:01 type veth peer name eth9",
        "ip link set pod1 master br9",
    )
    assert ns.links()["br9"]["address"] == "fa:00:00:00:00:01"
    done = ns.settle("segment", **BLUE, bridge="br9")
    assert "bridge br9 has MTU 1500, and the segment carries 1450" in str(done["warnings"])
    assert ns.links()["br9"]["address"] == "fa:00:00:00:00:01"
    assert ns.links()["br9"]["mtu"] == 1450
    assert not ns.make("segment", **BLUE, bridge="br9").get("warnings")


def test_over_ipv6_and_between_the_segments_of_one_bridge_and_another(ns: Namespace) -> None:
    vteps = {"host1": "fd30::11", "host2": "fd30::12"}
    members = MEMBERS[:2]
    done = ns.settle("segment", **{**BLUE, "vteps": vteps, "members": members}, mode="proxy")
    assert (done["mtu"], done["vtep"]) == (1430, "fd30::11")
    assert "dst fd30::12 self permanent" in ns.sh(f"bridge fdb show dev {DEVICE}")
    # Its port moves with the settings that it has.
    done = ns.settle(
        "segment", **{**BLUE, "vteps": vteps, "members": members}, mode="proxy", bridge="br0"
    )
    assert done["recreated"] == []
    assert ns.links()[DEVICE]["master"] == "br0"
    assert BRIDGE not in ns.links()
    assert "neigh_suppress on" in ns.sh(f"bridge -d link show dev {DEVICE}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vni": 1 << 24}, "segment blue: vni: 16777216 is not from 1 to 16777215"),
        ({"name": "a b"}, "name: 'a b' does not name a segment"),
        ({"device": "a-name-of-16-byt"}, "segment blue: device: 'a-name-of-16-byt' is not a"),
        ({"bridge": "a-name-of-16-byt"}, "segment blue: bridge: 'a-name-of-16-byt' is not a"),
        ({"device": "flannel.100"}, "flannel.100 is a name for flannel's own devices"),
        ({"mode": "multicast"}, "segment blue: group: is required by mode multicast"),
        ({"mode": "multicast", "group": "10.1.1.1"}, "10.1.1.1 is not a multicast address"),
        ({"mode": "flood", "replicate": False}, "false goes with mode proxy only"),
        ({"mtu": 1451}, "mtu: 1451 is not possible: packets leave by u0, whose MTU is 1500"),
        ({"host": "host9"}, "vteps: has no address of this host, 'host9'"),
        (
            {"vteps": {**VTEPS, "host2": ""}},
            "segment blue: the VTEP address of host2 is not known, because this run has not "
            "reached it; nothing was changed; run it for all hosts of the segment, or set vteps",
        ),
        (
            {"discovered": {"host1": {"blue": []}, "host2": {}}},
            "the members behind the ports of host2 and host3 are not known",
        ),
        ({"vteps": {**VTEPS, "host2": "host2"}}, "'host2' is not an IP address"),
        ({"vteps": {**VTEPS, "host2": "172.30.1.13"}}, "host2 and host3 have the same address"),
        ({"vteps": {**VTEPS, "host2": "fd30::2"}}, "are of different families"),
        (
            {"vteps": {**VTEPS, "host2": "172.30.1.21"}},
            "vteps: 172.30.1.21 of host2 is an address of this host, host1",
        ),
        ({"mode": "proxy", "discovered": {}}, "discover: does not go with mode proxy"),
        ({"vteps": {**VTEPS, "host1": "172.30.9.9"}}, "172.30.9.9 is not an address of this host"),
        (
            {"members": [*MEMBERS, {**MEMBERS[0], "host": "host2"}]},
            "members[3].mac: 02:00:00:00:00:01 of host2 is also members[0], of host1",
        ),
        (
            {"members": [*MEMBERS, {**MEMBERS[0], "mac": "02:00:00:00:00:09"}]},
            "members[3].addresses: 3.3.3.1 of 02:00:00:00:00:09 is also of members[0]",
        ),
        (
            {"members": [{**MEMBERS[0], "mac": "33:33:00:00:00:01"}]},
            "members[0].mac: 33:33:00:00:00:01 is not a unicast MAC address",
        ),
        ({"members": [{**MEMBERS[0], "host": "host9"}]}, "'host9' is not among the hosts"),
        ({"members": [{**MEMBERS[0], "addresses": ["3.3.3.1/24"]}]}, "is not an IP address"),
        ({"members": [{**MEMBERS[0], "addresses": ["239.1.1.1"]}]}, "is no member's address"),
        ({"members": [{**MEMBERS[0], "adress": "3.3.3.1"}]}, "members[0]: has no adress"),
    ],
)
def test_what_is_wrong_is_said_before_anything_changes(
    ns: Namespace, options: dict[str, t.Any], message: str
) -> None:
    assert message in ns.refuse("segment", **{**BLUE, **options})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f"ip link add {DEVICE} type bridge", "vxlan100 exists and is a bridge device"),
        (f"ip link add {BRIDGE} type veth peer name end", "br100 exists and is a veth device"),
        (
            f"ip link add {DEVICE} type vxlan id 7 dstport 4789 dev u0",
            "vxlan100 exists, with VNI 7, and was not made for a segment of this host",
        ),
        (
            f"ip link add {DEVICE} type vxlan id 100 dstport 4789 dev u0",
            "vxlan100 exists, with VNI 100, and was not made for a segment of this host",
        ),
        (
            "ip link add other type vxlan id 100 dstport 4789 dev u0",
            "device other has VNI 100 and port 4789 already",
        ),
        (
            f"ip link add {BRIDGE} type bridge\n"
            f"ip link add other type vxlan id 7 dstport 4789 dev u0\n"
            f"ip link set other master {BRIDGE}",
            "br100 has the VXLAN device other as a port already",
        ),
    ],
)
def test_what_belongs_to_others_is_not_touched(ns: Namespace, lines: str, message: str) -> None:
    ns.sh(lines)
    told = ns.refuse("segment", **BLUE)
    assert message in told
    assert told.startswith("segment blue: ")
    done = ns.make("segment", **BLUE, state="absent")
    assert not done["changed"]
    assert {"mtu", "vtep"} & done.keys() == set()
    if f"link add {DEVICE}" in lines:
        assert done["kept"] == "device vxlan100 was not made for the segment"


def test_the_device_of_another_segment_is_kept(ns: Namespace) -> None:
    ns.settle("segment", **BLUE)
    done = ns.make("segment", name="red", vni=300, device=DEVICE, host_id=HOST_ID, state="absent")
    assert not done["changed"]
    assert done["kept"] == "device vxlan100 was not made for the segment"


def test_what_the_kernel_refuses_is_taken_back(ns: Namespace) -> None:
    """Without IPv6 on the device it holds no IPv6 neighbour."""
    ns.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    before = ns.state(indexes=False)
    failed = ns.run("segment", **BLUE, mode="proxy")
    assert failed["failed"]
    assert "the kernel refused to add neigh fd00:3::2" in failed["msg"]
    same(before, ns.state(indexes=False))


@pytest.mark.parametrize("options", [{"port": 4790}, {"bridge": "br0"}, {"vni": 200}])
def test_a_refused_change_of_the_device_gives_the_port_its_settings_back(
    ns: Namespace, options: dict[str, t.Any]
) -> None:
    """Without IPv6 on the device it holds no IPv6 neighbour."""
    members = [{**each, "addresses": each["addresses"][:1]} for each in MEMBERS]
    ns.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    ns.settle("segment", **{**BLUE, "members": members}, mode="proxy")
    before = ns.state(indexes=False)
    failed = ns.run("segment", **{**BLUE, **options}, mode="proxy")
    assert "the kernel refused to add neigh fd00:3::2" in failed["msg"]
    same(before, ns.state(indexes=False))
    assert "neigh_suppress on" in ns.sh(f"bridge -d link show dev {DEVICE}")


def test_what_is_left_of_segments_that_the_host_is_not_in_is_told(ns: Namespace) -> None:
    ns.settle("segment", **BLUE)
    ns.settle("segment", **{**BLUE, "name": "red", "vni": 300})
    ns.sh("ip link add other type vxlan id 7 dstport 4790 dev u0")
    told = ns.run("segment_info", host_id=HOST_ID, joined=["red", "green"], vtep="172.30.1.11")
    assert (told["left"], told["vtep"]) == ([DEVICE], "172.30.1.11")
    assert len(told["warnings"]) == 1
    assert "device vxlan100, with VNI 100, was made for a segment" in str(told["warnings"])
    assert "ip link delete vxlan100" in str(told["warnings"])
    # A host in no segment needs no VTEP address.
    told = ns.run("segment_info", host_id=HOST_ID, joined=[], vtep="9.9.9.9")
    assert (told["left"], told["vtep"]) == ([DEVICE, "vxlan300"], "")
    assert ns.run("segment_info", vtep="172.30.1.11")["left"] == []


def test_what_a_host_tells_of_itself(ns: Namespace) -> None:
    told = ns.run(
        "segment_info", interface="172.30.1.0/24", segments=[BLUE, {"name": "red", "vni": 7}]
    )
    assert (told["vtep"], told["interface"]) == ("172.30.1.11", "u0")
    assert told["members"] == {"blue": None, "red": None}
    assert ns.run("segment_info", vtep="fd30::11")["interface"] == "u0"
    assert "9.9.9.9 is not an address of this host" in ns.refuse("segment_info", vtep="9.9.9.9")
    ns.settle("segment", **BLUE)
    ns.sh(
        f"ip address add 3.3.3.254/24 dev {BRIDGE}",
        "ip link add pod1 type veth peer name eth9",
        f"ip link set pod1 master {BRIDGE} up",
        # It would say that it is there.
        "sysctl -qw net.ipv6.conf.eth9.disable_ipv6=1",
        "ip link set eth9 up",
    )
    # A port that is up takes part a moment later.
    for port in ("pod1", DEVICE):
        shown = f"bridge -d link show dev {port}"
        wait(lambda shown=shown: "state forwarding" in ns.sh(shown), f"{port} does not forward")
    ns.sh(
        "bridge fdb add 02:00:00:00:00:21 dev pod1 master dynamic",
        "bridge fdb add 02:00:00:00:00:22 dev pod1 master static",
        # Those of other hosts.
        f"bridge fdb add 02:00:00:00:00:02 dev {DEVICE} master dynamic",
        f"ip neighbor add 3.3.3.21 lladdr 02:00:00:00:00:21 dev {BRIDGE} nud reachable",
        f"ip neighbor add fd00:3::21 lladdr 02:00:00:00:00:21 dev {BRIDGE} nud stale",
        f"ip neighbor add 3.3.3.22 dev {BRIDGE} nud failed",
    )
    found = ns.run("segment_info", vtep="172.30.1.11", segments=[BLUE])["members"]
    seen = {each["mac"]: each["addresses"] for each in found["blue"]}
    own = ns.links()[BRIDGE]["address"]
    assert seen.pop(own) == ["3.3.3.254"]
    assert seen == {"02:00:00:00:00:21": ["3.3.3.21", "fd00:3::21"], "02:00:00:00:00:22": []}
