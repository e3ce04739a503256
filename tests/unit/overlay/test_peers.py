# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which leases become peers, what reaches them, and whose routes are left alone."""

from __future__ import annotations

import json

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import LosingAllPeers
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    PROTOCOL,
    Address,
    Entry,
    Fdb,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    Change,
    RouteTaken,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.peers import (
    NotAdjacent,
    changes,
    entries,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.rules import (
    Peers,
    Rules,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Underlay,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import VXLAN, apply, fleet, host_ips, kernel_of, prefix_of, unicast_macs


def network(kind: str = "vxlan", text: str = "100.96.0.0/16", **backend: object) -> NetworkConfig:
    return config_from_dict({"Network": text, "Backend": {"Type": kind, **backend}})


CONFIG = network()
OWN, SECOND, THIRD = fleet()
HERE = [Address("eth0", "10.168.0.11/24"), Address("eth0", "fd00::11/64")]
UNDERLAY = Underlay("eth0", "10.168.0.11/24", 1500, "default route")
ROUTES = [
    Route("0.0.0.0/0", "eth0", "10.168.0.1", protocol=4),
    Route("10.168.0.0/24", "eth0", src="10.168.0.11", protocol=2),
]
FAR = THIRD._replace(public_ip="10.169.0.13", hostname="far")


def select(*leases: Lease, config: NetworkConfig = CONFIG, own: Lease = OWN) -> Peers:
    return Rules(config, own, HERE, config_revision=9).select([own, *leases])


def plain(lease: Lease, kind: str) -> Lease:
    return lease._replace(backend_type=kind, data=None)


# Which leases are used


def test_every_lease_but_our_own_is_a_peer_in_the_order_of_keys() -> None:
    assert select(*fleet()) == Peers((THIRD, SECOND), ())
    assert select() == Peers((), ())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("100.97.1.0-24", {}, "it is outside the network 100.96.0.0/16"),
        ("100.0.0.0-8", {}, "it is outside the network 100.96.0.0/16"),
        ("8.8.8.0-24", {}, "it is outside the network 100.96.0.0/16"),
        ("100.96.45.0-25", {}, "it overlaps this host's own subnet 100.96.45.0/24"),
        ("100.96.32.0-20", {}, "it overlaps this host's own subnet 100.96.45.0/24"),
        ("100.96.7.0-24", {"PublicIP": "100.96.7.7"}, "public IP 100.96.7.7 is inside its own"),
        ("100.96.7.0-24", {"PublicIP": "100.96.45.7"}, "100.96.45.7 is inside the overlay"),
        ("100.96.7.0-24", {"PublicIP": "10.168.0.11"}, "is an address of this host"),
        ("100.96.7.0-24", {"PublicIP": "10.168.0.255"}, "10.168.0.255 is a broadcast address"),
        ("100.96.7.0-24", {"PublicIP": "10.168.0.0"}, "10.168.0.0 is a broadcast address"),
        ("100.96.7.0-24", {"BackendType": "host-gw"}, "backend is host-gw, the network's is vxlan"),
        ("100.96.7.0-24", {"BackendType": "VXLAN"}, "backend is VXLAN, the network's is vxlan"),
        ("100.96.7.0-24", {"BackendType": None}, "is udp or alloc, the network's is vxlan"),
        ("100.96.7.0-24", {"VNI": 2}, "its VNI is 2, the network's is 1"),
        ("100.96.7.0-24", {"VtepMAC": OWN.data.mac}, "32:53:f8:08:97:41 is this host's too"),
        ("100.96.7.0-24", {"VtepMAC": SECOND.data.mac}, "is that of 10.168.0.12 too"),
        ("100.96.57.0-24&fd00:10::-64", {}, "overlaps 100.96.57.0/24 of 10.168.0.12, which was"),
        (
            "100.96.0.0-24",
            {},
            "it is not a /24 between SubnetMin 100.96.1.0 and SubnetMax 100.96.2",
        ),
        ("100.96.57.0-25", {}, "it is not a /24 between"),
        ("100.96.57.7-32", {}, "and nothing shows that it was leased under an older config"),
        ("100.96.6.0-23", {}, "it is not a /24 between"),
        (
            "100.96.7.0-24",
            {"PublicIP": "169.254.255.255"},
            "255.255 is a link-local address",
        ),
        ("100.96.7.0-24", {"PublicIP": "0.1.2.3"}, "0.1.2.3 cannot be the address of a host"),
    ],
)
def test_a_lease_that_must_not_be_used_is_skipped_saying_why(
    key: str, value: dict[str, object], reason: str
) -> None:
    data = {"VNI": value.pop("VNI", 1), "VtepMAC": value.pop("VtepMAC", "02:00:00:00:00:07")}
    fields = {"PublicIP": "10.168.0.17", "BackendType": "vxlan", "BackendData": data}
    fields["BackendV6Data"] = {**data, "VtepMAC": "02:00:00:00:00:08"}
    lease = parse_lease(key, json.dumps({**fields, **value}))
    # Of two that say the same the first key wins, as long as their revisions are not known.
    mine = "100.96.1.0-24" if key == "100.96.7.0-24" else SECOND.key_name
    second = SECOND._replace(subnet=mine.replace("-", "/"))
    for leases in ((second, lease), (lease, second)):
        found = select(*leases)
        assert found.usable == (second,)
        (skipped,) = found.skipped
        assert skipped.lease == lease
        assert reason in skipped.reason
        assert str(skipped).startswith("lease %s of %s is not used: " % (lease.subnet, lease.owner))


def judged(*leases: Lease, revision: int = 100) -> Peers:
    return Rules(CONFIG, OWN, HERE, config_revision=revision).select(leases)


def test_what_was_leased_under_an_older_config_stays_reachable() -> None:
    small = SECOND._replace(subnet="100.96.200.64/26")
    assert judged(small._replace(create_revision=99)).usable
    # Nor does renewing it change that.
    assert judged(small._replace(create_revision=99, mod_revision=400)).usable
    for created, revision in ((100, 100), (101, 100), (0, 100), (99, 0)):
        (skipped,) = judged(small._replace(create_revision=created), revision=revision).skipped
        assert "it is not a /24 between" in skipped.reason
    (skipped,) = judged(small._replace(create_revision=101)).skipped
    assert "its key is newer than the network's config" in skipped.reason
    # But never apart from the network, or where this host's own pods are.
    for subnet in ("100.97.3.0/26", "100.96.45.64/26"):
        assert judged(small._replace(subnet=subnet, create_revision=1)).usable == ()


def test_whose_key_is_there_longest_holds_what_leases_clash_over() -> None:
    wide = SECOND._replace(subnet="100.96.56.0/22", create_revision=7)
    late = [
        THIRD._replace(subnet="100.96.57.0/24", create_revision=200),
        THIRD._replace(subnet="100.96.1.0/24", create_revision=201, data=SECOND.data),
    ]
    for leases in ([wide, *late], [*late, wide]):
        found = judged(*leases)
        assert found.usable == (wide,)
        assert [each.reason for each in found.skipped] == [
            "fa:64:8e:9e:ba:64 is that of 10.168.0.12 too",
            "its subnet overlaps 100.96.56.0/22 of 10.168.0.12, which was there before",
        ]
    # At one revision, as after one transaction, the key decides.
    both = [each._replace(create_revision=7, subnet6=None) for each in (SECOND, THIRD)]
    both[1] = both[1]._replace(data=SECOND.data)
    assert judged(*both).usable == (min(both, key=lambda lease: lease.key_name),)


def test_no_lease_covers_an_address_that_this_host_has_to_reach() -> None:
    needed = {"100.96.57.9": "an etcd endpoint", "100.96.30.255": "a gateway of this host"}
    rules = Rules(CONFIG, OWN, HERE, needed=needed)
    assert rules.refusal(SECOND) == "it covers 100.96.57.9, which is an etcd endpoint"
    assert rules.refusal(THIRD) == "it covers 100.96.30.255, which is a gateway of this host"
    assert rules.refusal(SECOND._replace(subnet="100.96.58.0/24")) is None


def test_a_fleet_on_a_link_local_underlay_has_such_addresses() -> None:
    own = OWN._replace(public_ip="169.254.3.1")
    assert select(SECOND._replace(public_ip="169.254.3.2"), own=own).usable


def test_a_network_that_this_host_is_connected_to_is_never_hidden_by_a_peer() -> None:
    rules = Rules(CONFIG, OWN, [*HERE, Address("lan0", "100.96.8.1/22")])
    for subnet in ("100.96.8.0/24", "100.96.11.0/24", "100.96.0.0/20", "100.96.9.7/32"):
        assert rules.refusal(SECOND._replace(subnet=subnet)) == (
            "it overlaps 100.96.8.0/22, which this host is connected to"
        )
    assert rules.refusal(SECOND._replace(subnet="100.96.12.0/24")) is None


def test_one_host_may_hold_two_subnets_with_one_vtep() -> None:
    other = SECOND._replace(subnet="100.96.58.0/24")
    assert select(SECOND, other).usable == (SECOND, other)


def test_a_lease_without_a_vni_is_of_the_networks() -> None:
    assert select(SECOND._replace(data=SECOND.data._replace(vni=None))).usable
    config = network(VNI=7)
    second, own = (each._replace(data=each.data._replace(vni=7)) for each in (SECOND, OWN))
    assert select(second, config=config, own=own).usable


def test_a_host_gw_network_takes_host_gw_leases_and_udp_takes_any() -> None:
    config, own = network("host-gw"), plain(OWN, "host-gw")
    peer = plain(SECOND, "host-gw")
    found = select(peer, THIRD, config=config, own=own)
    assert found.usable == (peer,)
    assert "its backend is vxlan, the network's is host-gw" in found.skipped[0].reason
    udp = select(peer, THIRD, config=network("udp"), own=plain(OWN, ""))
    assert udp.usable == (THIRD, peer)


some_leases = st.lists(
    st.builds(
        Lease,
        st.builds(
            prefix_of,
            st.integers(0, 255).map("100.96.{}.0".format),
            st.just(24) | st.integers(14, 32),
        ),
        host_ips | st.integers(0, 255).map("10.168.0.{}".format),
        st.sampled_from(["vxlan", "vxlan", "vxlan", "host-gw"]),
        st.builds(
            Vtep,
            st.sampled_from([None, 1, 1, 2]),
            unicast_macs | st.sampled_from([OWN.data.mac, SECOND.data.mac]),
        ),
        data6=st.none(),
        create_revision=st.integers(0, 12),
    ),
    max_size=10,
    unique_by=lambda lease: lease.subnet,
)


@given(some_leases, st.randoms())
def test_every_host_selects_the_same_from_any_order_and_nothing_is_silently_dropped(
    leases: list[Lease], random: object
) -> None:
    found = select(*leases)
    assert sorted((*found.usable, *(each.lease for each in found.skipped))) == sorted(
        lease for lease in leases if lease.key_name != OWN.key_name
    )
    random.shuffle(leases)  # type: ignore[attr-defined]
    assert select(*leases) == found
    assert all(each.reason for each in found.skipped)


@given(some_leases)
def test_what_reaches_the_selected_never_has_two_states_of_one_object(leases: list[Lease]) -> None:
    wanted = entries(CONFIG, select(*leases).usable, UNDERLAY, ROUTES)
    assert len(kernel_of(wanted)) == len(set(wanted))
    # So all of it can be in one kernel, and no MAC leads elsewhere.
    assert {entry.dst for entry in wanted if isinstance(entry, Fdb)} == {
        lease.public_ip for lease in select(*leases).usable
    }


# What reaches them

REACHED = [
    Neigh("flannel.1", "100.96.30.0", "4a:73:e1:76:ac:41"),
    Fdb("flannel.1", "4a:73:e1:76:ac:41", "10.168.0.13"),
    Route("100.96.30.0/24", "flannel.1", "100.96.30.0", onlink=True),
    Neigh("flannel.1", "100.96.57.0", "fa:64:8e:9e:ba:64"),
    Fdb("flannel.1", "fa:64:8e:9e:ba:64", "10.168.0.12"),
    Route("100.96.57.0/24", "flannel.1", "100.96.57.0", onlink=True),
]
DIRECT = [
    Route("100.96.30.0/24", "eth0", "10.168.0.13"),
    Route("100.96.57.0/24", "eth0", "10.168.0.12"),
]


def test_vxlan_reaches_a_peer_by_neighbour_fdb_and_onlink_route_as_flannel_does() -> None:
    assert entries(CONFIG, [THIRD, SECOND], UNDERLAY, ROUTES) == tuple(REACHED)


def test_the_device_is_named_by_the_vni() -> None:
    config = network(VNI=77)
    assert {entry.dev for entry in entries(config, [SECOND], UNDERLAY, ROUTES)} == {"flannel.77"}


def test_direct_routing_needs_one_route_where_no_gateway_is_in_between() -> None:
    config = network(DirectRouting=True)
    assert entries(config, [THIRD, SECOND], UNDERLAY, ROUTES) == tuple(DIRECT)
    assert entries(config, [FAR, SECOND], UNDERLAY, ROUTES) == (
        Neigh("flannel.1", "100.96.30.0", "4a:73:e1:76:ac:41"),
        Fdb("flannel.1", "4a:73:e1:76:ac:41", "10.169.0.13"),
        *REACHED[2:3],
        DIRECT[1],
    )


def test_a_peer_on_the_link_of_another_interface_is_not_routed_directly() -> None:
    routes = [*ROUTES, Route("10.169.0.0/24", "eth1", protocol=2)]
    assert len(entries(network(DirectRouting=True), [FAR], UNDERLAY, routes)) == 3


def test_our_own_routes_do_not_tell_how_the_underlay_is_reached() -> None:
    ours = Route("10.169.0.0/16", "eth0", protocol=PROTOCOL)
    assert len(entries(network(DirectRouting=True), [FAR], UNDERLAY, [*ROUTES, ours])) == 3


def test_host_gw_is_one_route_a_peer_and_no_device() -> None:
    peers = [plain(THIRD, "host-gw"), plain(SECOND, "host-gw")]
    assert entries(network("host-gw"), peers, UNDERLAY, ROUTES) == tuple(DIRECT)


def test_host_gw_names_every_peer_off_the_link_and_what_to_do() -> None:
    lost = SECOND._replace(public_ip="10.170.0.12", hostname="lost")
    other = SECOND._replace(public_ip="10.171.0.12", hostname="other")
    routes = [ROUTES[1], Route("10.169.0.0/16", "eth0", "10.168.0.254", protocol=4)]
    routes.append(Route("10.171.0.0/16", "eth1", protocol=2))
    with pytest.raises(NotAdjacent) as caught:
        entries(network("host-gw"), [THIRD, FAR, lost, other], UNDERLAY, routes)
    text = str(caught.value)
    assert "on the link of eth0 (10.168.0.11/24)" in text
    assert "far (10.169.0.13) (it is reached through 10.168.0.254)" in text
    assert "lost (10.170.0.12) (there is no route to it)" in text
    assert "other (10.171.0.12) (it is reached through eth1)" in text
    assert "10.168.0.13" not in text
    assert "DirectRouting" in text


@pytest.mark.parametrize("kind", ["udp", "alloc"])
def test_udp_and_alloc_have_no_entries_for_peers_whatever_their_leases_say(kind: str) -> None:
    config = network(kind, DirectRouting=True)
    assert entries(config, [SECOND, plain(THIRD, "")], UNDERLAY, ROUTES) == ()


# What is changed

FLANNELD = [entry._replace(protocol=3) if isinstance(entry, Route) else entry for entry in REACHED]


def split(kernel: list[Entry]) -> tuple[list[Entry], list[Route]]:
    """The overlay device's neighbours and FDB entries, and the main table."""
    routes = [entry for entry in kernel if isinstance(entry, Route)]
    return [entry for entry in kernel if not isinstance(entry, Route)], routes


def test_the_first_time_all_peers_are_added_what_a_route_needs_first() -> None:
    found = changes(REACHED, "flannel.1", [], ROUTES)
    assert [change.after for change in found] == sorted(
        REACHED, key=lambda entry: [Neigh, Fdb, Route].index(type(entry))
    )
    assert changes(REACHED, "flannel.1", *split([*REACHED, *ROUTES])) == ()


def test_a_flannelds_peers_are_taken_over_by_their_routes_protocol_alone() -> None:
    found = changes(REACHED, "flannel.1", *split([*FLANNELD, *ROUTES]))
    assert found == (
        Change(FLANNELD[2], REACHED[2]),
        Change(FLANNELD[5], REACHED[5]),
    )


def test_what_reached_a_peer_that_is_gone_is_removed_route_first() -> None:
    found = changes(REACHED[:3], "flannel.1", *split([*REACHED, *ROUTES]))
    assert found == tuple(Change(entry, None) for entry in reversed(REACHED[3:]))


def test_a_peer_with_a_new_mac_leaves_no_old_fdb_entry() -> None:
    new = entries(CONFIG, [SECOND._replace(data=Vtep(1, "02:00:00:00:00:01"))], UNDERLAY, ROUTES)
    kernel = kernel_of([*REACHED[3:], *ROUTES])
    after = apply(changes(new, "flannel.1", *split(list(kernel.values()))), kernel)
    assert after == kernel_of([*new, *ROUTES])


def test_a_foreign_route_in_a_peers_place_is_refused_before_anything_changes() -> None:
    for foreign in (
        Route("100.96.57.0/24", "eth0", "10.168.0.99", protocol=4),
        Route("100.96.57.0/24", "eth1", "100.96.57.0", onlink=True, protocol=3),
        Route("100.96.57.0/24", "cni0", protocol=2),
        Route("100.96.57.0/24", "(blackhole)", protocol=4),
    ):
        with pytest.raises(RouteTaken, match="nothing was changed") as caught:
            changes(REACHED, "flannel.1", [], [*ROUTES, foreign])
        assert str(foreign) in str(caught.value)


def test_losing_all_peers_is_refused_unless_it_is_allowed() -> None:
    kernel = split([*REACHED, *ROUTES])
    with pytest.raises(LosingAllPeers, match="kernel reaches 2; nothing was removed"):
        changes((), "flannel.1", *kernel, allow_no_peers=False)
    assert len(changes((), "flannel.1", *kernel, allow_no_peers=True)) == len(REACHED)
    # A host that never had any, and one that keeps some.
    assert changes((), "flannel.1", [], ROUTES, allow_no_peers=False) == ()
    assert len(changes(REACHED[:3], "flannel.1", *kernel, allow_no_peers=False)) == 3


def test_what_reaches_a_subnet_with_an_unreadable_lease_stays() -> None:
    kernel = split([*REACHED, *ROUTES])
    unreadable = ["100.96.57.0/24"]
    assert changes(REACHED[:3], "flannel.1", *kernel, unreadable=unreadable) == ()
    found = changes((), "flannel.1", *kernel, unreadable=unreadable)
    assert {change.before for change in found} == set(REACHED[:3])
    direct = split([*DIRECT, *ROUTES])
    assert changes(DIRECT[:1], None, *direct, unreadable=unreadable) == ()


def test_an_unreadable_lease_does_not_keep_what_somebody_else_is_reached_by() -> None:
    """The MAC of the subnet nobody understands turned up in another lease."""
    moved = [
        Neigh("flannel.1", "100.96.30.0", "fa:64:8e:9e:ba:64"),
        Fdb("flannel.1", "fa:64:8e:9e:ba:64", "10.168.0.13"),
        REACHED[2],
    ]
    kernel = kernel_of([*REACHED, *ROUTES])
    found = changes(
        moved, "flannel.1", *split(list(kernel.values())), unreadable=["100.96.57.0/24"]
    )
    after = apply(found, kernel)
    assert {key: after[key] for key in kernel_of(moved)} == kernel_of(moved)
    assert after[REACHED[5].key] == REACHED[5]


foreign_routes = st.lists(
    st.builds(
        Route,
        st.integers(0, 63).map("100.96.{}.0/24".format) | st.just("10.99.0.0/16"),
        st.sampled_from(["eth0", "eth1", "(blackhole)"]),
        st.sampled_from([None, "10.168.0.1", "10.168.0.12"]),
        protocol=st.sampled_from([2, 3, 4, 16, 186]),
        metric=st.sampled_from([0, 0, 50]),
    ),
    max_size=6,
    unique_by=lambda route: route.key,
)
stale = st.lists(
    st.sampled_from(
        [
            *FLANNELD,
            *REACHED,
            *DIRECT,
            Neigh("flannel.1", "100.96.99.0", "02:00:00:00:00:63"),
            Fdb("flannel.1", "02:00:00:00:00:63", "10.168.0.99"),
            Fdb("flannel.1", "fa:64:8e:9e:ba:64", "10.168.0.99"),
            Route("100.96.99.0/24", "flannel.1", "100.96.99.0", onlink=True),
            Route("100.96.99.0/24", "eth0", "10.168.0.99"),
        ]
    ),
    unique_by=lambda entry: entry.key,
)


@given(st.sampled_from([(), REACHED, REACHED[:3], DIRECT]), stale, foreign_routes)
def test_afterwards_the_kernel_has_what_is_wanted_and_all_that_is_foreign(
    wanted: list[Entry], ours: list[Entry], foreign: list[Route]
) -> None:
    kernel = kernel_of([*foreign, *ours])
    held, routes = split(list(kernel.values()))
    theirs = {
        route.key: route
        for route in routes
        if route.protocol != PROTOCOL and route.dev != "flannel.1"
    }
    places = kernel_of(wanted)
    same = [
        route
        for route in theirs.values()
        if places.get(route.key) == route._replace(protocol=PROTOCOL) and route.protocol != 2
    ]
    if [key for key in theirs if key in places and theirs[key] not in same]:
        with pytest.raises(RouteTaken):
            changes(wanted, "flannel.1", held, routes)
        return
    after = apply(changes(wanted, "flannel.1", held, routes), kernel)
    assert after == {**theirs, **places}


def test_a_lease_in_flannels_form_and_ours_are_reached_alike() -> None:
    value = VXLAN % ("10.168.0.12", "fa:64:8e:9e:ba:64")
    ours = parse_lease("100.96.57.0-24", value)._replace(host_id="ab" * 16, hostname="web")
    assert entries(CONFIG, [ours], UNDERLAY, ROUTES) == tuple(REACHED[3:])
