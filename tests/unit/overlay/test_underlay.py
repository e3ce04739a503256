# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a host meets its peers, and who is on its link."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    PROTOCOL,
    Address,
    Interface,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    NoUnderlay,
    Reach,
    Underlay,
    choose,
    foreign,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import ipv4, prefix_of, routes

MTU = {"lo": 65536, "eth0": 1500, "eth1": 9000, "cni0": 1450, "eth2": 1500}
INTERFACES = {name: Interface(name, n, mtu) for n, (name, mtu) in enumerate(MTU.items(), 1)}
ADDRESSES = [
    Address("lo", "127.0.0.1/8"),
    Address("eth0", "fd00::11/64"),
    Address("eth0", "10.168.0.11/24"),
    Address("eth0", "10.168.9.11/24"),
    Address("eth1", "172.30.1.11/16"),
    Address("cni0", "100.96.45.1/24"),
    Address("eth2", "fd00:2::11/64"),
]
ROUTES = [
    Route("0.0.0.0/0", "eth1", "172.30.0.1", metric=100, protocol=16),
    Route("10.168.0.0/24", "eth0", protocol=2),
    Route("172.30.0.0/16", "eth1", protocol=2),
    Route("10.200.0.0/16", "eth0", "10.168.0.1", protocol=4),
]
ETH0 = ("eth0", "10.168.0.11/24", 1500)


def find(
    routes: list[Route] = ROUTES, addresses: list[Address] = ADDRESSES, **how: Any
) -> Underlay:
    return choose(INTERFACES, addresses, routes, ignore=["cni0"], **how)


@pytest.mark.parametrize(
    ("how", "expected", "why"),
    [
        ({"interface": "eth0"}, ETH0, "name eth0"),
        ({"interface": "10.168.0.11"}, ETH0, "address 10.168.0.11"),
        ({"interface": "10.168.0.0/24"}, ETH0, "address 10.168.0.0/24"),
        ({"interface": "10.168.0.7/24"}, ETH0, "address 10.168.0.7/24"),
        ({"interface": "10.168.9.0/24"}, ("eth0", "10.168.9.11/24", 1500), "address 10.168.9.0/24"),
        ({"interface": "cni0"}, ("cni0", "100.96.45.1/24", 1450), "name cni0"),
        ({"pattern": "eth[03-9]"}, ETH0, "pattern eth[03-9]"),
        ({"can_reach": "10.168.0.200"}, ETH0, "route to 10.168.0.200"),
        ({"can_reach": "10.200.3.4"}, ETH0, "route to 10.200.3.4"),
        ({"can_reach": "8.8.8.8"}, ("eth1", "172.30.1.11/16", 9000), "route to 8.8.8.8"),
        ({}, ("eth1", "172.30.1.11/16", 9000), "default route"),
    ],
)
def test_the_interface_is_found_the_way_that_was_asked_for(
    how: dict[str, Any], expected: tuple[str, str, int], why: str
) -> None:
    found = find(**how)
    assert found == Underlay(*expected, why)
    assert found.ip == expected[1].partition("/")[0]


def test_the_first_way_that_is_given_counts() -> None:
    assert find(interface="eth0", pattern="eth1", can_reach="8.8.8.8").interface == "eth0"
    assert find(pattern="eth0", can_reach="8.8.8.8").interface == "eth0"


def test_of_two_default_routes_the_lower_metric_counts() -> None:
    other = Route("0.0.0.0/0", "eth0", "10.168.0.1", metric=50)
    assert find([*ROUTES, other]).interface == "eth0"
    assert find([other, *ROUTES]).interface == "eth0"


def test_without_a_default_route_the_only_interface_with_an_address_is_taken() -> None:
    found = find(ROUTES[1:], ADDRESSES[:3])
    assert found == Underlay(*ETH0, "only interface with an address")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"interface": "eth9"}, "no interface for the underlay: name eth9"),
        ({"interface": "eth2"}, "no interface for the underlay: name eth2"),
        ({"interface": "10.168.1.11"}, "no interface for the underlay: address 10.168.1.11"),
        ({"interface": "0.0.0.0/0"}, "more than one interface for the underlay: address 0.0.0.0/0"),
        ({"interface": "10.168.0.300"}, "interface '10.168.0.300' is not an address or a prefix"),
        ({"interface": "10.168.0.0/33"}, "interface '10.168.0.0/33' is not an address"),
        (
            {"pattern": "eth."},
            "more than one interface for the underlay: pattern eth. fits eth0, e",
        ),
        ({"pattern": "eth"}, "no interface for the underlay: pattern eth;"),
        ({"pattern": "cni0"}, "no interface for the underlay: pattern cni0;"),
        ({"pattern": "lo"}, "no interface for the underlay: pattern lo;"),
        ({"pattern": "eth["}, "interface_regex 'eth[' is not a regular expression"),
        ({"can_reach": "8.8.8.8", "routes": ROUTES[1:]}, "route to 8.8.8.8"),
        ({"routes": []}, "more than one interface for the underlay: only interface"),
        ({"routes": [], "addresses": []}, "no interface with an IPv4 address"),
    ],
)
def test_an_interface_that_cannot_be_told_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(NoUnderlay) as caught:
        find(**how)
    assert words in str(caught.value)


def test_the_refusal_lists_what_there_is_and_what_to_set() -> None:
    with pytest.raises(NoUnderlay) as caught:
        find(interface="eth9")
    assert str(caught.value).endswith(
        "this host has cni0 100.96.45.1/24; eth0 10.168.0.11/24 10.168.9.11/24; "
        "eth1 172.30.1.11/16; lo 127.0.0.1/8; set interface, interface_regex or can_reach"
    )


# Who is on the link

near = st.integers(0, 255).map(lambda number: "10.168.0.%d" % number) | ipv4
tables = st.lists(
    st.builds(
        Route,
        st.builds(prefix_of, near, st.integers(0, 32)),
        st.sampled_from(["eth0", "eth1", "(blackhole)"]),
        st.none() | ipv4,
        metric=st.sampled_from([0, 0, 5, 100]),
    )
    | routes,
    max_size=12,
)


def longest_match(routes: list[Route], address: str) -> Route | None:
    """What the kernel does: longest prefix, lowest metric, first in order."""
    fitting = [
        route
        for route in routes
        if ":" not in route.dst
        and ipaddress.IPv4Address(address) in ipaddress.IPv4Network(route.dst)
    ]
    return min(
        fitting, key=lambda route: (-int(route.dst.split("/")[1]), route.metric), default=None
    )


@given(tables, st.lists(near, min_size=1))
def test_a_packet_takes_the_longest_prefix_then_the_lowest_metric(
    table: list[Route], addresses: list[str]
) -> None:
    reach = Reach(table)
    for address in addresses:
        route = longest_match(table, address)
        assert reach.route(address) == route
        for interface in ("eth0", "eth1"):
            assert reach.on_link(address, interface) == (
                route is not None and route.dev == interface and not route.gateway
            )


@given(tables)
def test_our_own_routes_say_nothing_about_the_underlay(table: list[Route]) -> None:
    assert foreign(table) == [route for route in table if route.protocol != PROTOCOL]
