# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments become entries: what a frame meets in a VXLAN device of any host."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    ZERO_MAC,
    Address,
    Fdb,
    Interface,
    Link,
    Neigh,
    Port,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import outcome
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import segments
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.segments import (
    MODES,
    Segment,
    UnknownHosts,
    Vteps,
    entries,
    locate,
    parse,
    parse_all,
    with_discovered,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.segments import (
    Observed,
    SegmentPlan,
    change,
)
from hypothesis import given
from hypothesis import strategies as st

HOSTS = ["host1", "host2", "host3", "host4"]
VTEPS = {host: f"192.0.2.{number}" for number, host in enumerate(HOSTS, 11)}
HOST_ID = "0123456789abcdef0123456789abcdef"


def member(number: int, host: str) -> dict[str, t.Any]:
    return {
        "mac": "02:00:00:00:%02x:%02x" % divmod(number, 256),
        "addresses": ["3.3.%d.%d" % divmod(number, 256), "fd00:3::%x" % number],
        "host": host,
    }


def blue(**more: t.Any) -> dict[str, t.Any]:
    return {"name": "blue", "vni": 100, **more}


@st.composite
def described(draw: st.DrawFn) -> dict[str, t.Any]:
    """Any segment of some of the hosts."""
    numbers = draw(st.lists(st.integers(1, 2000), unique=True, max_size=12))
    mode = draw(st.sampled_from(MODES))
    return blue(
        mode=mode,
        group="239.1.1.1",
        replicate=mode != "proxy" or draw(st.booleans()),
        members=[member(number, draw(st.sampled_from(HOSTS))) for number in numbers],
    )


def on(host: str, given: dict[str, t.Any]) -> list[t.Any]:
    segment = parse(given, HOSTS)
    return entries(segment, locate(segment, host, VTEPS))


# --- entries ------------------------------------------------------------------------------------


@given(described(), st.sampled_from(HOSTS))
def test_a_frame_goes_to_the_host_of_its_member(asked: dict[str, t.Any], host: str) -> None:
    table = {each.mac: each.dst for each in on(host, asked) if isinstance(each, Fdb)}
    table.pop(ZERO_MAC, None)
    learning = asked["mode"] in ("multicast", "flood")
    assert table == {
        each["mac"]: VTEPS[each["host"]]
        for each in asked["members"]
        if each["host"] != host and not learning
    }


@given(described(), st.sampled_from(HOSTS))
def test_what_is_unknown_goes_to_all_others_or_nowhere(asked: dict[str, t.Any], host: str) -> None:
    flooded = [each.dst for each in on(host, asked) if isinstance(each, Fdb) and each.many]
    others = [VTEPS[other] for other in HOSTS if other != host]
    # The device's own group is the kernel's entry.
    wanted = others if asked["replicate"] and asked["mode"] != "multicast" else []
    assert sorted(flooded) == wanted


@given(described(), st.sampled_from(HOSTS))
def test_only_a_proxy_answers_for_members_of_other_hosts_and_for_no_others(
    asked: dict[str, t.Any], host: str
) -> None:
    answers = {(each.address, each.mac) for each in on(host, asked) if isinstance(each, Neigh)}
    assert answers == {
        (address, each["mac"])
        for each in asked["members"]
        if each["host"] != host and asked["mode"] == "proxy"
        for address in each["addresses"]
    }


@given(described(), st.sampled_from(HOSTS))
def test_no_two_entries_are_the_same_object_of_the_kernel(
    asked: dict[str, t.Any], host: str
) -> None:
    found = on(host, asked)
    assert len({each.key for each in found}) == len(found)
    assert {each.dev for each in found} <= {"vxlan100"}


def test_the_order_of_members_changes_nothing_of_what_there_is() -> None:
    given = blue(mode="proxy", members=[member(number, HOSTS[number % 4]) for number in range(9)])
    turned = {**given, "members": given["members"][::-1]}
    assert set(on("host1", given)) == set(on("host1", turned))


# --- changes ------------------------------------------------------------------------------------

INTERFACES = {"eth0": Interface("eth0", 2, 1500)}
ADDRESSES = [Address("eth0", "192.0.2.11/24")]


def plan(asked: dict[str, t.Any], observed: Observed) -> SegmentPlan:
    segment = parse(asked, HOSTS)
    vteps = locate(segment, "host1", VTEPS)
    return change(segment, vteps, observed, HOST_ID, INTERFACES, ADDRESSES)


def observed_of(state: t.Iterable[t.Any]) -> Observed:
    """What a kernel with these objects shows."""
    found = list(state)
    links = {each.name: each for each in found if isinstance(each, Link)}
    ports = [each for each in found if isinstance(each, Port)]
    held = [each for each in found if isinstance(each, (Neigh, Fdb))]
    device = links.get("vxlan100")
    return Observed(
        device,
        links.get("br100"),
        held,
        port=ports[0] if ports else None,
        tunnels=[device] if device else (),
        ports=["vxlan100"] if device else (),
    )


@given(described(), described())
def test_whatever_there_was_the_changes_lead_to_the_same_and_then_to_nothing(
    first: dict[str, t.Any], second: dict[str, t.Any]
) -> None:
    new = set(outcome(plan(second, Observed(None, None)).changes, ()))
    before = outcome(plan(first, Observed(None, None)).changes, ())
    planned = plan(second, observed_of(before))
    after = outcome(planned.changes, before)
    assert set(after) == new
    assert plan(second, observed_of(after)).changes == ()
    anew = {"proxy", "multicast"} & {first["mode"], second["mode"]}
    assert bool(planned.recreated) == (bool(anew) and first["mode"] != second["mode"])


def test_what_was_learned_gives_way_to_what_is_told() -> None:
    asked = blue(members=[member(1, "host2")])
    there = outcome(plan(asked, Observed(None, None)).changes, ())
    learned = (
        Fdb("vxlan100", "02:00:00:00:00:09", "192.0.2.13"),
        Fdb("vxlan100", "02:00:00:00:00:01", "192.0.2.13"),
    )
    changes = plan(asked, observed_of(there)._replace(learned=learned)).changes
    # The kernel replaces the other one itself, when the permanent one is made.
    assert [(each.before, each.after) for each in changes] == [(learned[0], None)]
    flooding = {**asked, "mode": "flood"}
    there = outcome(plan(flooding, Observed(None, None)).changes, ())
    assert plan(flooding, observed_of(there)._replace(learned=learned)).changes == ()


# --- what is asked for --------------------------------------------------------------------------


def test_names_and_numbers_that_are_not_given() -> None:
    found = parse(blue())
    assert found == Segment("blue", 100, "vxlan100", "br100")
    assert (found.port, found.mode, found.replicate) == (4789, "static", True)
    # Templates make text of numbers.
    assert parse({"name": "blue", "vni": "100", "port": "4790"}).port == 4790


def test_values_are_made_canonical() -> None:
    odd = {"mac": "02-00-00-00-00-AB", "addresses": ["FD00:3::0:1", "fd00:3::1"], "host": "host1"}
    (found,) = parse(blue(members=[odd])).members
    assert found == ("02:00:00:00:00:ab", ("fd00:3::1",), "host1")


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({"name": "a", "vni": 1}, {"name": "a", "vni": 2}, "segments a and a have the same name"),
        ({"name": "a", "vni": 1}, {"name": "b", "vni": 1}, "segments a and b have the same device"),
        (
            {"name": "a", "vni": 1, "bridge": "x"},
            {"name": "b", "vni": 2, "bridge": "x"},
            "segments a and b have the same bridge",
        ),
        (
            {"name": "a", "vni": 1},
            {"name": "b", "vni": 1, "bridge": "x", "device": "y"},
            "segments a and b have the same VNI and port",
        ),
        ({"name": "a", "vni": 1}, {"name": "b"}, "segment b: vni: is required"),
        ({"name": "a", "vni": 1}, "b", "segment 2: 'b' is not a mapping"),
        ({"name": "a", "vni": 1, "hosts": "host1"}, {}, "hosts: 'host1' is not a list of names"),
        (
            {"name": "a", "vni": 1, "hosts": ["host1"], "members": [member(1, "host2")]},
            {},
            "members[0].host: 'host2' is not among the hosts of the segment, which are host1",
        ),
    ],
)
def test_segments_of_one_host_are_told_apart(first: t.Any, second: t.Any, what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_all([first, second])
    assert what in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "vni", "mode", "members", "hosts", "mac", "addresses"]),
                each,
            )
        ),
        max_leaves=12,
    )
)
def test_nothing_that_a_user_writes_is_a_traceback(value: t.Any) -> None:
    for asked in ([value], [blue(members=value)], [blue(members=[value])]):
        with contextlib.suppress(InvalidInput):
            parse_all(asked)


# --- the hosts of a segment ---------------------------------------------------------------------


def test_a_host_that_is_not_known_is_named_but_for_multicast() -> None:
    vteps = {**VTEPS, "host2": "", "host4": None}
    with pytest.raises(UnknownHosts) as caught:
        locate(parse(blue()), "host1", vteps)
    assert "segment blue: the VTEP address of host2 and host4 is not known" in str(caught.value)
    found = locate(parse(blue(mode="multicast", group="239.1.1.1")), "host1", vteps)
    assert found == Vteps("host1", "192.0.2.11", {"host3": "192.0.2.13"})


def test_what_is_listed_counts_more_than_what_was_seen() -> None:
    listed = parse(blue(members=[member(1, "host1")]))
    seen = {
        "host1": {"blue": []},
        # The first is on its way to another host, the second says that it has its address.
        "host2": {
            "blue": [
                {"mac": "02:00:00:00:00:01", "addresses": []},
                {"mac": "02:00:00:00:00:02", "addresses": ["3.3.0.1", "3.3.0.2"]},
            ]
        },
    }
    found = with_discovered(listed, seen, ["host1", "host2"])
    assert found.members[0] == listed.members[0]
    assert found.members[1:] == (("02:00:00:00:00:02", ("3.3.0.2",), "host2"),)


def test_a_mac_address_that_two_hosts_saw_is_an_error() -> None:
    both = {"blue": [{"mac": "02:00:00:00:00:01", "addresses": []}]}
    with pytest.raises(InvalidInput) as caught:
        with_discovered(parse(blue()), {"host1": both, "host2": both}, ["host1", "host2"])
    assert "02:00:00:00:00:01 of host2 is also discovered[0], of host1" in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([], "none"),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (list("abcdefg"), "a, b, c, d, e and 2 more"),
    ],
)
def test_hosts_in_a_sentence(hosts: list[str], text: str) -> None:
    assert segments.names(hosts) == text
