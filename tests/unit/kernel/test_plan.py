# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: from observed to desired, in an order that loses no packet, and back."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    PROTOCOL,
    Address,
    Entry,
    Fdb,
    Link,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    Change,
    RouteTaken,
    adoptable_routes,
    diff,
    inverse,
    plan,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import addresses, apply, fdbs, kernel_of, neighs, routes

links = st.builds(
    Link,
    st.sampled_from(["flannel.1", "cni0"]),
    st.just("vxlan"),
    st.none() | st.integers(68, 9000),
    st.none() | st.just("02:00:00:00:00:01"),
    st.sampled_from([None, "", "br0"]),
    st.none() | st.booleans(),
    st.sampled_from([(), (("learning", True),), (("learning", False),)]),
)
entries = addresses | fdbs | neighs | routes | links


@st.composite
def states(draw: st.DrawFn) -> tuple[list[Entry], list[Entry]]:
    """Desired and observed, which have some in common, and some at one place but different."""
    pool = draw(st.lists(entries, max_size=8))
    desired = draw(st.lists(st.sampled_from(pool), max_size=8)) if pool else []
    observed = draw(st.lists(st.sampled_from(pool), max_size=8)) if pool else []
    return desired, [_varied(draw, entry) for entry in observed]


def _varied(draw: st.DrawFn, entry: Entry) -> Entry:
    """The same place in the kernel, perhaps with something else in it."""
    if isinstance(entry, Neigh) and draw(st.booleans()):
        return entry._replace(mac="02:00:00:00:00:01")
    if isinstance(entry, Fdb) and not entry.many and draw(st.booleans()):
        return entry._replace(dst="10.168.0.99", port=None)
    if isinstance(entry, Route) and draw(st.booleans()):
        return entry._replace(gateway=None, protocol=3)
    return entry


@given(states())
def test_applying_the_plan_makes_observed_equal_desired(
    state: tuple[list[Entry], list[Entry]],
) -> None:
    desired, observed = state
    result = apply(plan(desired, observed), kernel_of(observed))
    assert result == kernel_of(desired)
    assert plan(desired, result.values()) == ()


@given(states())
def test_what_is_as_desired_is_not_touched(state: tuple[list[Entry], list[Entry]]) -> None:
    desired, observed = map(kernel_of, state)
    changes = plan(*state)
    touched = {entry.key for change in changes for entry in change if entry}
    same = {key for key, entry in desired.items() if observed.get(key) == entry}
    assert not touched & same
    assert touched == (desired.keys() | observed.keys()) - same
    assert len(changes) == len(touched)


@given(states())
def test_the_inverse_restores_what_was_there_from_any_step(
    state: tuple[list[Entry], list[Entry]],
) -> None:
    desired, observed = state
    changes = plan(desired, observed)
    for done in range(len(changes) + 1):
        result = apply(changes[:done], kernel_of(observed))
        assert apply(inverse(changes[:done]), result) == kernel_of(observed)
    assert inverse(inverse(changes)) == changes


def test_the_inverse_takes_the_last_change_back_first() -> None:
    neigh = Neigh("flannel.1", "10.5.94.0", "aa:bb:cc:dd:ee:ff")
    route = Route("10.5.94.0/24", "flannel.1", "10.5.94.0", onlink=True)
    added = plan([route, neigh], ())
    assert added == (Change(None, neigh), Change(None, route))
    assert inverse(added) == (Change(route, None), Change(neigh, None)) == plan((), [neigh, route])


ORDER = [Link, Address, Neigh, Fdb, Route]


@given(states())
def test_what_a_route_needs_comes_before_it_and_goes_after_it(
    state: tuple[list[Entry], list[Entry]],
) -> None:
    changes = plan(*state)
    puts = [ORDER.index(type(change.after)) for change in changes if change.after]
    drops = [ORDER.index(type(change.before)) for change in changes if not change.after]
    assert puts == sorted(puts)
    assert drops == sorted(drops, reverse=True)
    # All is put before anything is dropped: a peer that moved is never unreachable.
    assert [bool(change.after) for change in changes] == [True] * len(puts) + [False] * len(drops)


@given(st.lists(neighs, unique_by=lambda entry: entry.key, max_size=10))
def test_entries_of_a_kind_keep_the_order_in_which_they_are_desired(wanted: list[Neigh]) -> None:
    assert [change.after for change in plan(wanted, ())] == wanted


@given(states())
def test_the_diff_has_a_line_for_every_object_that_changes(
    state: tuple[list[Entry], list[Entry]],
) -> None:
    changes = plan(*state)
    shown = diff(changes)
    assert shown["before"].splitlines() == [str(c.before) for c in changes if c.before]
    assert shown["after"].splitlines() == [str(c.after) for c in changes if c.after]
    assert diff(()) == {"before": "", "after": ""}


def test_changes_are_shown_in_iproute2s_words() -> None:
    old = Route("10.5.94.0/24", "flannel.1", "10.5.94.0", onlink=True)
    line = "route 10.5.94.0/24 via 10.5.94.0 dev flannel.1 onlink"
    assert str(Change(None, old)) == "add %s proto flatnet" % line
    assert str(Change(old, None)) == "remove %s proto flatnet" % line
    boot = old._replace(protocol=3)
    assert str(Change(boot, old)) == "change %s proto boot to %s proto flatnet" % (line, line)
    link = Link("flannel.1", "vxlan", 1450, options=(("learning", False),))
    new = link._replace(mtu=1400, options=(("learning", True),))
    assert str(Change(link, new)) == "change link flannel.1: mtu 1450 to 1400, learning off to on"


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            Fdb("flannel.1", "aa:bb:cc:dd:ee:ff", "10.168.0.13"),
            "fdb aa:bb:cc:dd:ee:ff dev flannel.1 dst 10.168.0.13 self permanent",
        ),
        (
            Fdb("vx0", "00:00:00:00:00:00", "10.168.0.13", 4789, 7, "eth0", 0),
            "fdb 00:00:00:00:00:00 dev vx0 dst 10.168.0.13 src_vni 0 vni 7 port 4789 via eth0 "
            "self permanent",
        ),
        (
            Neigh("flannel.1", "10.5.94.0", "aa:bb:cc:dd:ee:ff"),
            "neigh 10.5.94.0 lladdr aa:bb:cc:dd:ee:ff dev flannel.1 permanent",
        ),
        (Address("cni0", "10.5.94.1/24"), "address 10.5.94.1/24 dev cni0"),
        (
            Route("10.5.94.0/24", "eth0", "10.168.0.13", False, 1400, "10.5.1.1", 5, 100, 99),
            "route 10.5.94.0/24 via 10.168.0.13 dev eth0 src 10.5.1.1 mtu 1400 metric 5 "
            "table 100 proto 99",
        ),
    ],
)
def test_an_entry_is_a_line_as_iproute2_has_it(entry: Entry, line: str) -> None:
    assert str(entry) == line


# What may be changed or removed

PLACE = Route("10.5.94.0/24", "eth0", "10.168.0.13")
any_route = st.builds(
    PLACE._replace,
    dst=st.sampled_from(["10.5.94.0/24", "10.5.95.0/24", "10.5.96.0/24"]),
    dev=st.sampled_from(["eth0", "eth1", "(blackhole)"]),
    gateway=st.sampled_from(["10.168.0.13", "10.168.0.14"]),
    metric=st.sampled_from([0, 0, 7]),
    protocol=st.sampled_from([2, 3, 4, PROTOCOL]),
)


def is_ours(route: Route) -> bool:
    return route.protocol == PROTOCOL


@given(st.lists(any_route, max_size=3), st.lists(any_route, max_size=5))
def test_only_our_routes_and_identical_ones_may_be_changed(
    wanted: list[Route], there: list[Route]
) -> None:
    wanted = [route._replace(dev="eth0", protocol=PROTOCOL) for route in wanted]
    places = kernel_of(wanted)
    foreign = [route for route in there if not is_ours(route) or route.dev == "(blackhole)"]
    alike = [
        route
        for route in foreign
        if places.get(route.key) == route._replace(protocol=PROTOCOL) and route.protocol != 2
    ]
    in_the_way = [route for route in foreign if route.key in places and route not in alike]
    if in_the_way:
        with pytest.raises(RouteTaken, match="nothing was changed") as caught:
            adoptable_routes(wanted, there, is_ours)
        for route in in_the_way[-1:]:
            assert str(route) in str(caught.value)
            assert str(places[route.key]) in str(caught.value)
        return
    found = adoptable_routes(wanted, there, is_ours)
    assert found == [route for route in there if route not in foreign or route in alike]


def test_a_route_with_another_metric_is_not_in_the_way() -> None:
    foreign = PLACE._replace(metric=50, protocol=4, gateway="10.168.0.99")
    assert adoptable_routes([PLACE], [foreign], is_ours) == []


def test_an_adopted_route_changes_nothing_but_its_protocol() -> None:
    foreign = PLACE._replace(protocol=3)
    assert plan([PLACE], adoptable_routes([PLACE], [foreign], is_ours)) == (Change(foreign, PLACE),)
