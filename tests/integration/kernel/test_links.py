# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bridge and vxlan_vtep on a real kernel."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.namespace import Modules, Namespace, same

pytestmark = pytest.mark.matrix

HOST_ID = "0123456789abcdef0123456789abcdef"
LOCAL = {"local": "172.30.1.11", "device": "u0", "host_id": HOST_ID}
VTEP = "flannel.1"


def addresses(ns: Namespace, device: str) -> list[str]:
    (found,) = json.loads(ns.sh(f"ip -json address show {device}"))
    return [
        f"{each['local']}/{each['prefixlen']}"
        for each in found["addr_info"]
        if each["scope"] == "global"
    ]


# --- bridge ---------------------------------------------------------------------------------------


def test_a_bridge_is_made_changed_in_place_and_removed(ns: Namespace) -> None:
    done = ns.settle("bridge", name="cni0", addresses=["10.5.1.1/24", "fd05:1::1/64"], mtu=1450)
    assert addresses(ns, "cni0") == done["addresses"] == ["10.5.1.1/24", "fd05:1::1/64"]
    assert done["link"] == {
        "name": "cni0",
        "kind": "bridge",
        "mtu": 1450,
        "mac": ns.links()["cni0"]["address"],
        "master": "",
        "up": True,
        "stp": False,
        "vlan_filtering": False,
    }
    index = ns.ifindex("cni0")
    mac = "02:00:00:00:00:09"
    done = ns.settle("bridge", name="cni0", mtu=1400, mac=mac, stp=True)
    assert (done["link"]["mtu"], done["link"]["mac"], done["link"]["stp"]) == (1400, mac, True)
    found = ns.links()["cni0"]
    assert (found["mtu"], found["address"], found["stp_state"]) == (1400, mac, 1)
    assert addresses(ns, "cni0") == ["10.5.1.1/24", "fd05:1::1/64"]
    assert ns.ifindex("cni0") == index
    done = ns.settle("bridge", name="cni0", state="absent")
    assert (done["link"], done["addresses"]) == (None, [])
    assert "cni0" not in ns.state()


def test_what_check_mode_shows_is_what_is_there_afterwards(ns: Namespace) -> None:
    args = {"name": "cni0", "addresses": ["10.5.1.1/24"], "mtu": 1450, "stp": False}
    planned = ns.run("bridge", check=True, **args)
    done = ns.run("bridge", **args)
    assert planned["addresses"] == done["addresses"]
    assert planned["link"].items() <= done["link"].items()


def test_a_bridge_s_mac_is_stable_at_creation_and_then_left_alone(ns: Namespace) -> None:
    first = ns.settle("bridge", name="cni0", host_id=HOST_ID)["link"]["mac"]
    ns.settle("bridge", name="cni0", state="absent")
    assert ns.settle("bridge", name="cni0", host_id=HOST_ID)["link"]["mac"] == first
    assert ns.settle("bridge", name="cni1", host_id=HOST_ID)["link"]["mac"] != first
    ns.sh("ip link set cni0 address 02:00:00:00:00:09")
    assert not ns.make("bridge", name="cni0", host_id=HOST_ID)["changed"]


def test_an_mtu_that_was_asked_for_stays_when_ports_come(ns: Namespace) -> None:
    for mtu in (1450, 1500, 68):
        ns.settle("bridge", name="cni0", mtu=mtu)
        ns.sh("ip link set u1 mtu 1400 master cni0")
        assert not ns.make("bridge", name="cni0", mtu=mtu)["changed"]
        ns.sh("ip link set u1 nomaster mtu 1500")
        ns.settle("bridge", name="cni0", state="absent")


def test_an_mtu_that_was_not_asked_for_is_the_kernel_s_affair(ns: Namespace) -> None:
    ns.settle("bridge", name="cni0")
    ns.sh("ip link set u1 mtu 1400 master cni0")
    assert ns.links()["cni0"]["mtu"] == 1400
    assert not ns.make("bridge", name="cni0")["changed"]
    ns.settle("bridge", name="cni0", mtu=1450)
    ns.sh("ip link set u1 mtu 1300")
    assert not ns.make("bridge", name="cni0", mtu=1450)["changed"]


def test_what_a_moved_lease_leaves_behind_is_refused_or_removed(ns: Namespace) -> None:
    ns.settle("bridge", name="cni0", addresses=["10.5.1.1/24", "fd05:1::1/64"])
    message = ns.refuse("bridge", name="cni0", addresses=["10.5.2.1/24"])
    assert message.startswith("addresses: cni0 also has 10.5.1.1/24, ")
    assert "set exclusive" in message
    # The other family is not spoken of.
    assert not ns.make("bridge", name="cni0", addresses=["10.5.1.1/24"])["changed"]
    ns.settle("bridge", name="cni0", addresses=["10.5.2.1/24"], exclusive=True)
    assert addresses(ns, "cni0") == ["10.5.2.1/24"]
    ns.settle("bridge", name="cni0", addresses=[], exclusive=True)
    assert addresses(ns, "cni0") == []


def test_an_address_does_not_go_with_the_one_it_came_after(ns: Namespace) -> None:
    ns.settle("bridge", name="cni0", addresses=["10.5.1.1/24", "10.5.1.2/24", "10.5.1.3/24"])
    ns.settle("bridge", name="cni0", addresses=["10.5.1.2/24", "10.5.1.4/24"], exclusive=True)
    assert addresses(ns, "cni0") == ["10.5.1.2/24", "10.5.1.4/24"]
    assert ns.sh("sysctl -n net.ipv4.conf.cni0.promote_secondaries") == "0\n"


def test_the_prefix_length_of_an_address_changes(ns: Namespace) -> None:
    ns.settle("bridge", name="cni0", addresses=["10.5.1.1/24", "fd05:1::1/64"])
    wanted = ["10.5.1.1/20", "fd05:1::1/48"]
    ns.settle("bridge", name="cni0", addresses=wanted, exclusive=True)
    assert addresses(ns, "cni0") == wanted


def test_a_bridge_with_ports_goes_only_by_force(ns: Namespace) -> None:
    ns.settle("bridge", name="cni0")
    ns.sh("ip link set u1 master cni0")
    message = ns.refuse("bridge", name="cni0", state="absent")
    assert message.startswith("name: cni0 still has the ports u1; ")
    assert ns.refuse("bridge", name="cni0", state="absent", check=True) == message
    ns.settle("bridge", name="cni0", state="absent", force=True)
    assert "u1" in ns.state()


@pytest.mark.parametrize("module", ["bridge", "vxlan_vtep"])
def test_a_device_of_another_kind_is_somebody_else_s(ns: Namespace, module: str) -> None:
    ns.sh(
        "ip link add other type bridge"
        if module == "vxlan_vtep"
        else "ip link add other type vxlan id 9 dstport 9"
    )
    message = ns.refuse(module, name="other", host_id=HOST_ID)
    assert message.startswith("name: device other exists and is a ")
    assert ns.refuse(module, name="other", state="absent").startswith("name: device other is a ")
    assert "a veth device" in ns.refuse(module, name="u0", state="absent")


def test_without_ipv6_ipv4_works(modules: Modules) -> None:
    with Namespace(modules, ipv6=False) as ns:
        ns.settle("bridge", name="cni0", addresses=["10.5.1.1/24"], mtu=1450)
        ns.settle("vxlan_vtep", addresses=["10.5.1.0/32"], **LOCAL)
        ns.settle("vxlan_vtep", addresses=["10.5.1.0/32"], **LOCAL, dstport=4789)
        entry = {"device": VTEP, "exclusive": True}
        peer = {"mac": "02:00:00:00:00:05", "dst": "172.30.1.12"}
        ns.settle("fdb_entry", **entry, entries=[peer])
        ns.settle("neigh_entry", **entry, entries=[{"address": "10.5.2.0", "mac": peer["mac"]}])
        route = {"prefix": "10.5.2.0/24", "gateway": "10.5.2.0", "onlink": True}
        ns.settle("route_entry", **entry, entries=[route])
        message = ns.refuse("bridge", name="cni0", addresses=["fd05:1::1/64"])
        assert "address fd05:1::1/64 dev cni0" in message
        ns.settle("vxlan_vtep", state="absent")


# --- vxlan_vtep -----------------------------------------------------------------------------------

OPTIONS = {
    "id": 1,
    "dstport": 8472,
    "local": "172.30.1.11",
    "dev": "u0",
    "group": None,
    "external": False,
    "learning": False,
    "proxy": False,
    "l2miss": False,
    "l3miss": False,
    "rsc": False,
    "ttl": 0,
    "tos": 0,
    "ageing": 300,
    "udpcsum": True,
    "udp6zerocsumtx": False,
    "udp6zerocsumrx": False,
    "gbp": False,
}


def test_the_defaults_are_flannel_s(ns: Namespace) -> None:
    done = ns.settle("vxlan_vtep", addresses=["10.5.1.0/32"], **LOCAL)
    assert done["recreated"] == []
    assert done["addresses"] == addresses(ns, VTEP) == ["10.5.1.0/32"]
    mac = ns.links()[VTEP]["address"]
    common = {"name": VTEP, "kind": "vxlan", "mtu": 1450, "mac": mac, "master": "", "up": True}
    assert done["link"] == {**common, **OPTIONS}
    # The same device, as its users would make it.
    text = ns.sh(f"ip -d -o link show {VTEP}").partition("vxlan id")[2]
    ns.sh(f"ip link delete {VTEP}")
    ns.sh(
        f"ip link add {VTEP} type vxlan id 1 local 172.30.1.11 dev u0 dstport 8472 nolearning",
        f"ip link set {VTEP} up address {mac}",
        f"ip address add 10.5.1.0/32 dev {VTEP}",
    )
    assert ns.sh(f"ip -d -o link show {VTEP}").partition("vxlan id")[2] == text
    assert not ns.make("vxlan_vtep", addresses=["10.5.1.0/32"], **LOCAL)["changed"]
    ns.settle("vxlan_vtep", state="absent")
    assert VTEP not in ns.state()


def test_every_option_reaches_the_kernel_and_comes_back(ns: Namespace) -> None:
    given = {
        "name": "vxlan77",
        "id": 77,
        "dstport": 4789,
        "device": "u0",
        "group": "239.1.1.1",
        "learning": True,
        "proxy": True,
        "l2miss": True,
        "l3miss": True,
        "rsc": True,
        "ttl": 9,
        "tos": 4,
        "ageing": 77,
        "udpcsum": False,
        "udp6zerocsumtx": True,
        "udp6zerocsumrx": True,
        "gbp": True,
        "mtu": 1400,
        "mac": "02:00:00:00:00:09",
        "local": "172.30.1.21",
    }
    done = ns.settle("vxlan_vtep", **given)
    seen = ns.sh("ip -d -o link show vxlan77")
    for words in (
        "mtu 1400 ",
        "link/ether 02:00:00:00:00:09 ",
        "vxlan id 77 group 239.1.1.1 local 172.30.1.21 dev u0 ",
        " dstport 4789 ",
        " tos 0x4 ttl 9 ageing 77 noudpcsum udp6zerocsumtx udp6zerocsumrx gbp ",
        " proxy rsc l2miss l3miss ",
    ):
        assert words in seen or words.replace(" rsc l2miss l3miss ", " l2miss l3miss ") in seen
    assert "nolearning" not in seen
    given["dev"] = given.pop("device")
    assert given.items() <= done["link"].items()


def test_the_mtu_is_what_the_underlay_leaves(ns: Namespace) -> None:
    ns.sh("ip link set u0 mtu 1400", "ip link set u1 mtu 9000")
    made = "vxlan_vtep"
    assert ns.settle(made, **LOCAL)["link"]["mtu"] == 1350
    assert ns.settle(made, id=2, local="172.30.1.21", host_id=HOST_ID)["link"]["mtu"] == 1350
    assert ns.settle(made, id=3, device="u1", host_id=HOST_ID)["link"]["mtu"] == 8950
    assert ns.settle(made, id=4, local="fd30::11", host_id=HOST_ID)["link"]["mtu"] == 1330
    message = ns.refuse(made, **LOCAL, mtu=1351)
    assert message.startswith("mtu: 1351 is not possible")
    message = ns.refuse(made, id=4, local="fd30::11", host_id=HOST_ID, mtu=1331)
    assert message.startswith("mtu: 1331 is not possible")
    # The underlay's changed, and the overlay's follows.
    ns.sh("ip link set u0 mtu 1300")
    assert ns.settle(made, **LOCAL)["link"]["mtu"] == 1250
    # Nothing is known of the underlay: the kernel's.
    assert ns.settle(made, id=5, host_id=HOST_ID)["link"]["mtu"] == 1500


def test_the_mac_is_made_of_the_host_s_identity_and_the_vni(ns: Namespace) -> None:
    first = ns.settle("vxlan_vtep", **LOCAL)["link"]["mac"]
    ns.sh(f"ip link delete {VTEP}")
    assert ns.settle("vxlan_vtep", **LOCAL)["link"]["mac"] == first
    # Unlike a bridge's it is part of what peers know: another one is put right.
    ns.sh(f"ip link set {VTEP} address 02:00:00:00:00:09")
    assert ns.settle("vxlan_vtep", **LOCAL)["link"]["mac"] == first
    assert ns.settle("vxlan_vtep", **{**LOCAL, "host_id": "other"})["link"]["mac"] != first
    assert ns.settle("vxlan_vtep", **LOCAL, id=2)["link"]["mac"] != first


def test_addresses_are_exactly_those_given_or_left_alone(ns: Namespace) -> None:
    ns.settle("vxlan_vtep", **LOCAL, addresses=["10.5.1.0/32", "fd05:1::/128"])
    assert not ns.make("vxlan_vtep", **LOCAL)["changed"]
    ns.settle("vxlan_vtep", **LOCAL, addresses=["10.5.2.0/32"])
    assert addresses(ns, VTEP) == ["10.5.2.0/32"]
    ns.settle("vxlan_vtep", **LOCAL, addresses=[])
    assert addresses(ns, VTEP) == []


HELD = [
    f"ip address add 10.5.1.7/32 dev {VTEP}",
    f"ip address add fd05:1::7/128 dev {VTEP}",
    f"ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:05 dev {VTEP} nud permanent",
    f"ip neigh add fd05:2:: lladdr 02:00:00:00:00:05 dev {VTEP} nud permanent",
    f"bridge fdb add 02:00:00:00:00:05 dev {VTEP} dst 172.30.1.12 self permanent",
    f"bridge fdb append 00:00:00:00:00:00 dev {VTEP} dst 172.30.1.12 self permanent",
    f"bridge fdb append 00:00:00:00:00:00 dev {VTEP} dst 172.30.1.13 via u0 self permanent",
    f"ip route add 10.5.2.0/24 via 10.5.2.0 dev {VTEP} onlink proto 110 src 10.5.1.7",
    f"ip route add 10.5.3.0/24 dev {VTEP} proto static mtu 1300 table 100",
    f"ip -6 route add fd05:2::/64 via fd05:2:: dev {VTEP} onlink proto 110",
]


def held(ns: Namespace) -> str:
    """What a device holds, whatever its options are."""
    text = ns.state(indexes=False)
    return "\n".join(line for line in text.splitlines() if VTEP in line and '"ifname"' not in line)


@pytest.mark.parametrize(
    "change",
    [
        {"learning": True},
        {"mtu": 1300},
        {"master": "br0"},
        {"ageing": 20},
        {"ttl": 7},
        {"tos": 4},
        {"mac": "02:00:00:00:00:09"},
        {"addresses": ["10.5.9.0/32"]},
        {"learning": True, "mtu": 1300, "master": "br0", "ageing": 20, "ttl": 7, "tos": 4},
    ],
    ids="+".join,
)
def test_what_can_change_live_does(ns: Namespace, change: dict[str, t.Any]) -> None:
    ns.sh("ip link add br0 type bridge")
    ns.settle("vxlan_vtep", **LOCAL)
    before = ns.ifindex(VTEP)
    done = ns.settle("vxlan_vtep", **LOCAL, **change)
    assert done["recreated"] == []
    assert ns.ifindex(VTEP) == before
    change.pop("addresses", None)
    assert change.items() <= done["link"].items()
    # And back.
    back = {"master": ""} if "master" in change else {}
    done = ns.settle("vxlan_vtep", **LOCAL, **back, addresses=[])
    assert {name: done["link"][name] for name in OPTIONS} == OPTIONS
    assert (done["link"]["mtu"], done["link"]["master"]) == (1450, "")
    assert ns.ifindex(VTEP) == before


@pytest.mark.parametrize(
    "change",
    [
        {"dstport": 4789},
        {"id": 2},
        {"local": "172.30.1.21"},
        {"gbp": True},
        {"proxy": True},
        {"l2miss": True, "l3miss": True},
        {"rsc": True},
        {"udpcsum": False},
        {"udp6zerocsumtx": True},
        {"udp6zerocsumrx": True},
        {"device": "u1"},
        {"device": ""},
        {"group": "239.1.1.1"},
    ],
    ids=lambda change: "+".join(f"{name}={value}" for name, value in change.items()),
)
def test_what_cannot_change_live_recreates_the_device_with_all_it_held(
    ns: Namespace, change: dict[str, t.Any]
) -> None:
    args = {**LOCAL, "name": VTEP, "mac": "02:00:00:00:00:09"}
    ns.settle("vxlan_vtep", **args)
    ns.sh("ip link add br0 type bridge", f"ip link set {VTEP} master br0", *HELD)
    before, index = held(ns), ns.ifindex(VTEP)
    done = ns.make("vxlan_vtep", **{**args, **change})
    assert ns.ifindex(VTEP) != index
    assert len(done["recreated"]) == len(change)
    for reason in done["recreated"]:
        assert f"device {VTEP} was made anew: {reason}" in json.dumps(done["warnings"])
    after = held(ns)
    if "group" in change:  # the destination that comes with it
        after = "\n".join(line for line in after.splitlines() if "239.1.1.1" not in line)
    same(before, after)
    assert done["link"]["master"] == "br0"
    again = ns.make("vxlan_vtep", **{**args, **change})
    assert not again["changed"]
    assert again["recreated"] == []


def test_check_mode_warns_of_what_would_be_made_anew(ns: Namespace) -> None:
    ns.settle("vxlan_vtep", **LOCAL)
    planned = ns.run("vxlan_vtep", check=True, **LOCAL, dstport=4789)
    assert planned["recreated"] == ["dstport 8472 cannot become 4789 on a live device"]
    assert "would be made anew: dstport 8472" in json.dumps(planned["warnings"])
    assert planned["link"]["dstport"] == 4789


def test_if_the_new_device_is_refused_the_old_one_is_back(ns: Namespace) -> None:
    ns.settle("vxlan_vtep", **LOCAL)
    ns.sh("ip link add other type vxlan id 2 local 172.30.1.11 dev u0 dstport 8472", *HELD)
    before = ns.state(indexes=False)
    result = ns.run("vxlan_vtep", **LOCAL, name=VTEP, id=2)
    assert "another VXLAN device has this VNI and port" in result["msg"]
    assert "could not be taken back" not in result["msg"]
    same(before, ns.state(indexes=False))


def test_if_part_of_a_live_change_is_refused_none_of_it_is_done(ns: Namespace) -> None:
    ns.settle("vxlan_vtep", **LOCAL)
    # The loopback device is nobody's master, and comes last.
    message = ns.refuse("vxlan_vtep", **LOCAL, ttl=9, ageing=20, mtu=1300, master="lo")
    assert message.startswith(f"the kernel refused to change link {VTEP}: ")


def test_an_external_device_becomes_one_with_a_vni(ns: Namespace) -> None:
    ns.sh(f"ip link add {VTEP} type vxlan external dstport 8472")
    done = ns.make("vxlan_vtep", **LOCAL)
    assert "external on cannot become off on a live device" in done["recreated"]
    assert {name: done["link"][name] for name in OPTIONS} == OPTIONS
    assert not ns.make("vxlan_vtep", **LOCAL)["changed"]


def test_what_is_omitted_is_left_and_what_is_empty_removed(ns: Namespace) -> None:
    ns.settle("vxlan_vtep", **LOCAL, group="239.1.1.1")
    mtu = {"mtu": 1450, "host_id": HOST_ID}
    # A task that says less than the last one changes nothing; group still has its device.
    assert not ns.make("vxlan_vtep", **mtu)["changed"]
    done = ns.settle("vxlan_vtep", **mtu, group="", local="", device="")
    assert {done["link"][name] for name in ("group", "local", "dev")} == {None}


def test_a_master_may_be_missing_in_check_mode_only(ns: Namespace) -> None:
    planned = ns.run("vxlan_vtep", check=True, **LOCAL, master="br0")
    assert planned["link"]["master"] == "br0"
    assert ns.refuse("vxlan_vtep", **LOCAL, master="br0").startswith("master: device br0 does not")


@pytest.mark.parametrize(("module", "args"), [("bridge", {"name": "cni0"}), ("vxlan_vtep", LOCAL)])
def test_check_mode_works_before_pyroute2_is_installed(
    ns: Namespace, module: str, args: dict[str, t.Any]
) -> None:
    assert ns.run(module, check=True, without=["pyroute2"], **args)["changed"]
    result = ns.run(module, without=["pyroute2"], **args)
    assert "python3-pyroute2" in result["msg"]
    gone = {"state": "absent", "name": "none0"}
    assert not ns.run(module, check=True, without=["pyroute2"], **gone)["changed"]


@pytest.mark.parametrize(("module", "args"), [("bridge", {"name": "cni0"}), ("vxlan_vtep", LOCAL)])
def test_who_is_not_root_is_told_so(ns: Namespace, module: str, args: dict[str, t.Any]) -> None:
    assert "needs root (CAP_NET_ADMIN)" in ns.refuse(module, uid=65534, **args)
