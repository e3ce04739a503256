# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fdb_entry, neigh_entry and route_entry on a real kernel."""

from __future__ import annotations

import pytest

from tests.integration.namespace import Namespace

pytestmark = pytest.mark.matrix

VTEP = "flannel.1"
MAC, MAC2 = "02:00:00:00:00:05", "02:00:00:00:00:06"
ZERO = "00:00:00:00:00:00"


@pytest.fixture
def vtep(ns: Namespace) -> Namespace:
    ns.sh(
        f"ip link add {VTEP} type vxlan id 1 local 172.30.1.11 dev u0 dstport 8472 nolearning",
        f"ip address add 10.5.1.0/32 dev {VTEP}",
        f"ip link set {VTEP} up",
    )
    return ns


def fdb(ns: Namespace, device: str = VTEP) -> list[str]:
    return sorted(line.strip() for line in ns.sh(f"bridge fdb show dev {device}").splitlines())


def neighbours(ns: Namespace, device: str = VTEP) -> list[str]:
    text = ns.sh(f"ip neigh show dev {device} nud permanent")
    return sorted(line.strip() for line in text.splitlines())


def routes(ns: Namespace, what: str = "table all") -> list[str]:
    # One family alone does not know the other's prefixes, or has no such table.
    text = ns.sh(*(f"ip -N -{family} route show {what} 2>/dev/null || true" for family in "46"))
    return [line.strip() for line in text.splitlines()]


# --- what all three have in common ----------------------------------------------------------------

FORMS = {
    "fdb_entry": {
        "first": {"device": VTEP, "mac": MAC, "dst": "172.30.1.12"},
        "second": {"device": VTEP, "mac": MAC, "dst": "172.30.1.13"},
        "shown": lambda ns: [line for line in fdb(ns) if MAC in line],
        "lines": [f"{MAC} dst 172.30.1.12 self permanent", f"{MAC} dst 172.30.1.13 self permanent"],
        "absent": {"device": VTEP, "mac": MAC},
    },
    "neigh_entry": {
        "first": {"device": VTEP, "address": "10.5.2.0", "mac": MAC},
        "second": {"device": VTEP, "address": "10.5.2.0", "mac": MAC2},
        "shown": neighbours,
        "lines": [f"10.5.2.0 lladdr {MAC} PERMANENT", f"10.5.2.0 lladdr {MAC2} PERMANENT"],
        "absent": {"device": VTEP, "address": "10.5.2.0"},
    },
    "route_entry": {
        "first": {"prefix": "10.5.2.0/24", "device": "u0", "gateway": "172.30.1.12"},
        "second": {"prefix": "10.5.2.0/24", "device": VTEP, "gateway": "10.5.2.0", "onlink": True},
        "shown": lambda ns: routes(ns, "proto 110"),
        "lines": [
            "10.5.2.0/24 via 172.30.1.12 dev u0",
            f"10.5.2.0/24 via 10.5.2.0 dev {VTEP} onlink",
        ],
        "absent": {"prefix": "10.5.2.0/24"},
    },
}


@pytest.mark.parametrize("module", FORMS)
def test_an_entry_is_made_changed_in_place_and_removed(vtep: Namespace, module: str) -> None:
    form = FORMS[module]
    vtep.settle(module, **form["first"])
    assert form["shown"](vtep) == form["lines"][:1]
    done = vtep.settle(module, **form["second"])
    assert form["shown"](vtep) == form["lines"][1:]
    # One object, before and after: not a removal and an addition.
    assert [text.count("\n") for text in done["diff"].values()] == [1, 1]
    vtep.settle(module, state="absent", **form["absent"])
    assert form["shown"](vtep) == []


@pytest.mark.parametrize("module", FORMS)
def test_absent_leaves_what_differs_in_a_given_property(vtep: Namespace, module: str) -> None:
    form = FORMS[module]
    vtep.settle(module, **form["first"])
    assert not vtep.make(module, state="absent", **form["second"])["changed"]
    assert form["shown"](vtep) == form["lines"][:1]
    assert vtep.make(module, state="absent", **form["first"])["changed"]


@pytest.mark.parametrize("module", FORMS)
def test_a_missing_device_is_an_error_but_not_in_check_mode(ns: Namespace, module: str) -> None:
    # An earlier task of the same run may be going to make it.
    args = {**FORMS[module]["first"], "device": "later0"}
    planned = ns.run(module, check=True, **args)
    assert planned["changed"]
    assert "dev later0" in planned["diff"]["after"]
    assert ns.refuse(module, **args).startswith("device: device later0 does not exist")
    assert not ns.make(module, state="absent", **args)["changed"]


@pytest.mark.parametrize("module", FORMS)
def test_who_is_not_root_is_told_so(vtep: Namespace, module: str) -> None:
    message = vtep.refuse(module, uid=65534, **FORMS[module]["first"])
    assert "needs root (CAP_NET_ADMIN)" in message


REFUSED = {
    # The device takes no more entries than this.
    "fdb_entry": (
        "ip link add full0 type vxlan id 2 local 172.30.1.11 dstport 8473 maxaddress 20; "
        "ip link set full0 up",
        {"device": "full0"},
        [{"mac": f"02:00:00:00:01:{n:02x}", "dst": "172.30.1.12"} for n in range(20)],
        {"mac": MAC, "dst": "172.30.1.12"},
    ),
    # With an MTU below IPv6's least a device has no IPv6 at all.
    "neigh_entry": (
        f"ip link set {VTEP} mtu 1000",
        {"device": VTEP},
        [{"address": f"10.5.3.{n}", "mac": MAC} for n in range(20)],
        {"address": "fd05::5", "mac": MAC},
    ),
    # Nobody knows how to reach the gateway.
    "route_entry": (
        "",
        {"device": "u0"},
        [{"prefix": f"10.5.{n}.0/24", "gateway": "172.30.1.12"} for n in range(20)],
        {"prefix": "10.6.0.0/24", "gateway": "192.0.2.1"},
    ),
}


@pytest.mark.parametrize("module", REFUSED)
def test_what_the_kernel_refuses_is_named_and_all_else_taken_back(
    vtep: Namespace, module: str
) -> None:
    before, args, good, bad = REFUSED[module]
    vtep.sh(before)
    place = 20 if module == "fdb_entry" else 10
    message = vtep.refuse(module, **args, entries=[*good[:place], bad, *good[place:]])
    assert message.startswith("the kernel refused to add ")
    assert next(iter(bad.values())) in message
    assert "the 20 changes made before were taken back" in message


@pytest.mark.parametrize("module", FORMS)
def test_entries_need_no_pyroute2(vtep: Namespace, module: str) -> None:
    assert vtep.run(module, without=["pyroute2"], **FORMS[module]["first"])["changed"]


# --- forwarding entries ---------------------------------------------------------------------------


def test_exclusive_fdb_purges_what_is_permanent_and_nothing_else(vtep: Namespace) -> None:
    vtep.sh(
        "ip link set u0 multicast on",
        "ip link add v2 type vxlan id 2 group 239.1.1.1 dev u0 dstport 8473",
        "ip link set v2 up",
        f"bridge fdb add {MAC} dev v2 dst 172.30.1.12 self permanent",
        f"bridge fdb append {ZERO} dev v2 dst 172.30.1.13 self permanent",
        "bridge fdb add 02:00:00:00:00:07 dev v2 dst 172.30.1.14 self dynamic",
        f"bridge fdb add {MAC} dev {VTEP} dst 172.30.1.12 self permanent",
    )
    own = f"{ZERO} dst 239.1.1.1 via u0 self permanent"
    learned = "02:00:00:00:00:07 dst 172.30.1.14 self"
    wanted = [
        {"mac": ZERO, "dst": "172.30.1.14"},
        {"mac": ZERO, "dst": "172.30.1.15", "port": 4789, "vni": 7, "via": "u0"},
        {"mac": "01:00:5e:01:01:01", "dst": "172.30.1.12"},
        {"mac": "01:00:5e:01:01:01", "dst": "172.30.1.13"},
        {"mac": MAC2, "dst": "172.30.1.12"},
    ]
    vtep.settle("fdb_entry", device="v2", entries=wanted, exclusive=True)
    assert fdb(vtep, "v2") == sorted(
        [
            own,
            learned,
            f"{ZERO} dst 172.30.1.14 self permanent",
            f"{ZERO} dst 172.30.1.15 port 4789 vni 7 via u0 self permanent",
            "01:00:5e:01:01:01 dst 172.30.1.12 self permanent",
            "01:00:5e:01:01:01 dst 172.30.1.13 self permanent",
            f"{MAC2} dst 172.30.1.12 self permanent",
        ]
    )
    vtep.settle("fdb_entry", device="v2", entries=[], exclusive=True)
    assert fdb(vtep, "v2") == sorted([own, learned])
    assert fdb(vtep) == [f"{MAC} dst 172.30.1.12 self permanent"]


def test_a_destination_of_many_is_added_and_removed_alone(vtep: Namespace) -> None:
    for last in (12, 13, 14):
        vtep.settle("fdb_entry", device=VTEP, mac=ZERO, dst=f"172.30.1.{last}")
    vtep.settle("fdb_entry", device=VTEP, mac=ZERO, dst="172.30.1.13", state="absent")
    assert fdb(vtep) == [f"{ZERO} dst 172.30.1.{last} self permanent" for last in (12, 14)]


def test_what_the_device_has_itself_need_not_be_said(vtep: Namespace) -> None:
    done = vtep.settle("fdb_entry", device=VTEP, mac=MAC, dst="172.30.1.12")
    plain = {"mac": MAC, "dst": "172.30.1.12"}
    assert done["entries"] == [plain]
    again = vtep.make("fdb_entry", device=VTEP, port=8472, vni=1, **plain)
    assert not again["changed"]
    assert again["entries"] == [plain]
    gone = vtep.make("fdb_entry", device=VTEP, port=8472, vni=1, state="absent", **plain)
    assert gone["changed"]


def test_an_entry_in_its_own_words_is_the_same_entry(vtep: Namespace) -> None:
    vtep.sh("ip link add v6 type vxlan id 6 local fd30::11 dstport 8472", "ip link set v6 up")
    vtep.settle("fdb_entry", device="v6", mac="02-00-00-00-00-AA", dst="FD30:0:0:0:0:0:0:0012")
    assert fdb(vtep, "v6") == ["02:00:00:00:00:aa dst fd30::12 self permanent"]


def test_an_external_device_tells_frames_apart_by_their_vni(vtep: Namespace) -> None:
    vtep.sh("ip link add ext type vxlan external dstport 8474", "ip link set ext up")
    vnis = [{"mac": MAC, "dst": "172.30.1.12", "src_vni": n, "vni": n} for n in (5, 6)]
    vtep.settle("fdb_entry", device="ext", entries=vnis, exclusive=True)
    assert len(fdb(vtep, "ext")) == 2
    vtep.settle("fdb_entry", device="ext", mac=MAC, src_vni=5, state="absent")
    assert fdb(vtep, "ext") == [f"{MAC} dst 172.30.1.12 vni 6 src_vni 6 self permanent"]


def test_an_entry_through_a_device_that_is_gone_can_be_purged(vtep: Namespace) -> None:
    vtep.sh("ip link add gone0 type veth peer name gone1")
    vtep.settle("fdb_entry", device=VTEP, mac=MAC, dst="172.30.1.12", via="gone0")
    vtep.sh("ip link delete gone0")
    assert vtep.make("fdb_entry", device=VTEP, entries=[], exclusive=True)["changed"]
    assert fdb(vtep) == []


# --- neighbours -----------------------------------------------------------------------------------


def test_exclusive_neighbours_are_those_of_the_device_that_are_permanent(vtep: Namespace) -> None:
    vtep.sh(
        f"ip neigh add 172.30.1.99 lladdr {MAC} dev u0 nud permanent",
        f"ip neigh add 10.5.9.0 lladdr {MAC} dev {VTEP} nud permanent",
        f"ip neigh add fd05:9:: lladdr {MAC} dev {VTEP} nud permanent",
        f"ip neigh add 10.5.8.0 lladdr {MAC} dev {VTEP} nud stale",
        f"ip neigh add 10.5.7.0 lladdr {MAC} dev {VTEP} nud stale",
    )
    wanted = [
        {"address": "10.5.2.0", "mac": MAC},
        {"address": "fd05:2::", "mac": MAC2},
        # Learned so far, and with another MAC address: it gives way.
        {"address": "10.5.7.0", "mac": MAC2},
    ]
    vtep.settle("neigh_entry", device=VTEP, entries=wanted, exclusive=True)
    assert neighbours(vtep) == [
        f"10.5.2.0 lladdr {MAC} PERMANENT",
        f"10.5.7.0 lladdr {MAC2} PERMANENT",
        f"fd05:2:: lladdr {MAC2} PERMANENT",
    ]
    assert neighbours(vtep, "u0") == [f"172.30.1.99 lladdr {MAC} PERMANENT"]
    assert "10.5.8.0" in vtep.sh(f"ip neigh show dev {VTEP} nud stale")
    vtep.settle("neigh_entry", device=VTEP, entries=[], exclusive=True)
    assert neighbours(vtep) == []
    assert neighbours(vtep, "u0")


# --- routes ---------------------------------------------------------------------------------------

PEER = {"prefix": "10.5.2.0/24", "gateway": "172.30.1.12", "device": "u0"}


def test_a_foreign_route_that_says_the_same_is_adopted(ns: Namespace) -> None:
    ns.sh("ip route add 10.5.2.0/24 via 172.30.1.12 dev u0 proto static")
    done = ns.settle("route_entry", **PEER)
    assert done["diff"]["before"].endswith("proto static\n")
    assert routes(ns, "10.5.2.0/24") == ["10.5.2.0/24 via 172.30.1.12 dev u0 proto 110"]


@pytest.mark.parametrize(
    "foreign",
    [
        "10.5.2.0/24 via 172.30.1.13 dev u0 proto static",
        "10.5.2.0/24 via 172.30.1.12 dev u0 proto static mtu 1400",
        "10.5.2.0/24 dev u1 proto boot",
        "blackhole 10.5.2.0/24 proto bird",
        "unreachable 10.5.2.0/24 proto 110",
        "10.5.2.0/24 proto static nexthop via 172.30.1.12 dev u0 nexthop via 172.30.1.13 dev u0",
    ],
)
def test_a_foreign_route_in_the_way_is_an_error_that_names_both(
    ns: Namespace, foreign: str
) -> None:
    ns.sh("ip route add " + foreign)
    others = [{"prefix": f"10.6.{n}.0/24", "gateway": "172.30.1.12"} for n in range(3)]
    message = ns.refuse("route_entry", device="u0", entries=[*others, {**PEER, "device": "u0"}])
    assert "route 10.5.2.0/24 via 172.30.1.12 dev u0 proto flatnet is wanted" in message
    assert ", and route 10.5.2.0/24 " in message.partition(" is there;")[0]
    assert ns.refuse("route_entry", check=True, **PEER) == message
    # In another table or with another metric there is room for both.
    ns.settle("route_entry", **PEER, metric=7)
    ns.settle("route_entry", **PEER, table=100)


def test_the_kernel_s_own_route_is_in_the_way_too(ns: Namespace) -> None:
    message = ns.refuse("route_entry", prefix="172.30.1.0/24", device="u0", src="172.30.1.11")
    assert "proto kernel" in message


def test_absent_never_removes_a_foreign_route(ns: Namespace) -> None:
    ns.sh("ip route add 10.5.2.0/24 via 172.30.1.12 dev u0 proto static")
    assert not ns.make("route_entry", state="absent", **PEER)["changed"]
    assert not ns.make("route_entry", state="absent", prefix="10.5.2.0/24")["changed"]


def test_exclusive_routes_are_those_of_protocol_table_and_device(ns: Namespace) -> None:
    ns.sh(
        "ip route add 10.1.0.0/24 via 172.30.1.9 proto 110",
        "ip route add 10.2.0.0/24 dev u1 proto 110",
        "ip route add 10.3.0.0/24 via 172.30.1.9 proto 111",
        "ip route add 10.4.0.0/24 via 172.30.1.9 proto 110 table 100",
        "ip route add 10.5.0.0/24 via 172.30.1.9 proto static",
        "ip -6 route add fd10::/64 via fd30::9 proto 110",
        "ip -6 route add fd11::/64 via fd30::9 proto 110 metric 5",
    )
    wanted = [
        {"prefix": "10.9.0.0/24", "gateway": "172.30.1.12"},
        {"prefix": "fd11::/64", "gateway": "fd30::9"},
        {"prefix": "10.2.0.0/24"},  # ours, through another device: it moves
    ]
    ns.settle("route_entry", device="u0", entries=wanted, exclusive=True)
    assert routes(ns, "table all proto 110") == [
        "10.4.0.0/24 via 172.30.1.9 dev u0 table 100",
        "10.2.0.0/24 dev u0 scope 253",
        "10.9.0.0/24 via 172.30.1.12 dev u0",
        "fd11::/64 via fd30::9 dev u0 metric 1024 pref medium",
    ]
    assert routes(ns, "proto 111") == ["10.3.0.0/24 via 172.30.1.9 dev u0"]
    assert routes(ns, "proto 4") == ["10.5.0.0/24 via 172.30.1.9 dev u0"]
    ns.settle("route_entry", entries=[], exclusive=True)
    assert routes(ns, "table all proto 110") == ["10.4.0.0/24 via 172.30.1.9 dev u0 table 100"]
    ns.settle("route_entry", entries=[], exclusive=True, table=100)
    ns.settle("route_entry", entries=[], exclusive=True, protocol=111)
    assert routes(ns, "table all proto 111") == []


def test_an_exclusive_route_moves_from_another_device(ns: Namespace) -> None:
    ns.sh("ip route add 10.2.0.0/24 dev u1 proto 110", "ip route add 10.3.0.0/24 dev u1 proto 110")
    ns.settle("route_entry", device="u0", entries=[{"prefix": "10.2.0.0/24"}], exclusive=True)
    assert routes(ns, "proto 110") == [
        "10.2.0.0/24 dev u0 scope 253",
        "10.3.0.0/24 dev u1 scope 253",
    ]


def test_a_route_in_full(ns: Namespace) -> None:
    ns.settle(
        "route_entry",
        prefix="10.5.2.0/24",
        gateway="172.30.1.12",
        device="u0",
        src="172.30.1.21",
        mtu=1400,
        metric=30,
        table=5000,
        protocol=99,
    )
    assert routes(ns, "table 5000") == [
        "10.5.2.0/24 via 172.30.1.12 dev u0 proto 99 src 172.30.1.21 metric 30 mtu 1400"
    ]


def test_an_ipv4_route_can_have_an_ipv6_gateway(ns: Namespace) -> None:
    ns.settle("route_entry", prefix="10.5.2.0/24", gateway="fd30::12", device="u0")
    assert routes(ns, "proto 110") == ["10.5.2.0/24 via inet6 fd30::12 dev u0"]


def test_ipv6_routes_have_a_default_metric(ns: Namespace) -> None:
    route = {"prefix": "fd10::/64", "gateway": "fd30::12", "device": "u0"}
    ns.settle("route_entry", **route, metric=5)
    ns.settle("route_entry", **route)
    assert not ns.make("route_entry", **route, metric=1024)["changed"]
    # The one that is meant goes, not the first that fits.
    ns.settle("route_entry", state="absent", **route, metric=1024)
    assert routes(ns, "proto 110") == ["fd10::/64 via fd30::12 dev u0 metric 5 pref medium"]


def test_an_embedded_ipv4_address_is_compared_as_what_it_is(ns: Namespace) -> None:
    ns.settle("route_entry", prefix="::ffff:10.5.2.0/120", gateway="fd30::12", device="u0")
    ns.settle("neigh_entry", address="::ffff:10.5.2.1", mac=MAC, device="u0")
