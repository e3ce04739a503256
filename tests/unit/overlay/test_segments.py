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
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    inverse,
    outcome,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import segments
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.discovered import (
    LIMIT,
    with_discovered,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.segments import (
    MODES,
    Segment,
    UnknownHosts,
    Vteps,
    entries,
    locate,
    parse,
    parse_all,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.segments import (
    DeviceTaken,
    Observed,
    SegmentPlan,
    change,
    removal,
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


@given(described(), described())
def test_the_inverse_of_the_changes_leads_back(
    first: dict[str, t.Any], second: dict[str, t.Any]
) -> None:
    """Also where a device is made anew, with which the kernel drops its port."""
    before = outcome(plan(first, Observed(None, None)).changes, ())
    changes = plan(second, observed_of(before)).changes
    there = set(before)
    for each in (*changes, *inverse(changes)):
        there.discard(each.before)
        if isinstance(each.before, Link) and each.after is None:
            assert not [entry for entry in there if getattr(entry, "dev", "") == each.before.name]
        there |= {each.after} - {None}
    assert there == set(before)


def test_a_bridge_with_vlans_is_refused() -> None:
    bridge = Link("br100", "bridge", mac="02:00:00:00:00:01", options=(("vlan_filtering", True),))
    with pytest.raises(DeviceTaken) as caught:
        plan(blue(), Observed(None, bridge))
    assert "segment blue: bridge: br100 has vlan_filtering on" in str(caught.value)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"ports": ["vxlan100", "pod1"]}, "bridge br100 still has the ports pod1"),
        ({"bridge_above": ["br100.10"]}, "bridge br100 has br100.10 on top"),
        ({"master": "vrf1"}, "bridge br100 belongs to vrf1"),
        (
            {"bridge_addresses": [Address("br100", "3.3.3.254/24")]},
            "bridge br100 has the addresses 3.3.3.254/24",
        ),
    ],
)
def test_a_bridge_that_is_in_use_is_kept(use: dict[str, t.Any], reason: str) -> None:
    there = observed_of(outcome(plan(blue(), Observed(None, None)).changes, ()))
    assert there.bridge
    if "master" in use:
        there = there._replace(bridge=there.bridge._replace(**use))
    else:
        there = there._replace(**use)
    leaving = removal(parse(blue()), there, HOST_ID)
    assert leaving.kept == reason
    assert [each.before.name for each in leaving.changes if isinstance(each.before, Link)] == [
        "vxlan100"
    ]
    # The same of a bridge that the segment has no more.
    moved = Observed(
        there.device, None, tunnels=there.tunnels, former=[there._replace(device=None)]
    )
    changed = plan(blue(bridge="br0"), moved)
    assert changed.kept == reason
    assert not [each for each in changed.changes if each.before == there.bridge]


def test_another_hosts_vtep_is_no_address_of_this_host() -> None:
    segment = parse(blue(), HOSTS)
    here = [*ADDRESSES, Address("eth1", "192.0.2.13/24")]
    vteps = locate(segment, "host1", VTEPS)
    with pytest.raises(InvalidInput) as caught:
        change(segment, vteps, Observed(None, None), HOST_ID, INTERFACES, here)
    assert "192.0.2.13 of host3 is an address of this host, host1" in str(caught.value)


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
            {"name": "a", "vni": 1, "bridge": "x"},
            {"name": "b", "vni": 2, "device": "x"},
            "segment b: device: x is the bridge of segment a",
        ),
        (
            {"name": "a", "vni": 1, "device": "x", "hosts": ["host1"]},
            {"name": "b", "vni": 2, "bridge": "x", "hosts": ["host1", "host2"]},
            "segment a: device: x is the bridge of segment b",
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
    listed = {"mac": "02:00:00:00:00:01", "host": "host1"}
    for each in ({**listed, "addresses": value}, {**listed, "addresses": [value]}):
        with contextlib.suppress(InvalidInput):
            parse_all([blue(members=[each])])
    for told in (value, {"blue": value}, {"blue": [value]}, {"blue": [{"mac": value}]}):
        with contextlib.suppress(InvalidInput, UnknownHosts):
            with_discovered(parse(blue()), {"host1": told}, ["host1"])


@pytest.mark.parametrize("addresses", [5, True, 1.5, "3.3.3.1", {}, [5], [None]])
def test_addresses_are_a_list_of_text(addresses: t.Any) -> None:
    odd = {"mac": "02:00:00:00:00:01", "host": "host1", "addresses": addresses}
    with pytest.raises(InvalidInput) as caught:
        parse_all([blue(members=[odd])])
    assert "segment blue: members[0].addresses: " in str(caught.value)


@pytest.mark.parametrize("members", [None, "null", [], ""])
def test_no_members_are_none(members: t.Any) -> None:
    (found,) = parse_all([blue(members=members, hosts=None)])
    assert found.members == ()


def test_segments_without_a_host_in_common_may_have_the_same_bridge() -> None:
    one = {"name": "a", "vni": 1, "bridge": "x", "hosts": ["host1"]}
    parse_all([one, {"name": "b", "vni": 2, "bridge": "x", "hosts": ["host2"]}])
    parse_all([one, {"name": "b", "vni": 2, "device": "x", "hosts": ["host2"]}])


# --- the hosts of a segment ---------------------------------------------------------------------


def test_a_host_that_is_not_known_is_named_but_for_multicast() -> None:
    vteps = {**VTEPS, "host2": "", "host4": None}
    with pytest.raises(UnknownHosts) as caught:
        locate(parse(blue()), "host1", vteps)
    assert "segment blue: the VTEP address of host2 and host4 is not known" in str(caught.value)
    found = locate(parse(blue(mode="multicast", group="239.1.1.1")), "host1", vteps)
    assert found == Vteps("host1", "192.0.2.11", {"host3": "192.0.2.13"})


def seen(*numbers: int) -> dict[str, t.Any]:
    return {"blue": [{"mac": member(each, "")["mac"], "addresses": []} for each in numbers]}


def test_what_is_listed_counts_more_than_what_was_seen() -> None:
    listed = parse(blue(members=[member(1, "host1")]))
    # The first is on its way to another host.
    found = with_discovered(listed, {"host1": seen(), "host2": seen(1, 2)}, ["host1", "host2"])
    assert found.segment.members[0] == listed.members[0]
    assert found.segment.members[1:] == (("02:00:00:00:00:02", (), "host2"),)
    assert found.warnings == ()


def test_what_two_hosts_saw_is_left_out_and_costs_nobody_else_anything() -> None:
    told = {"host1": seen(1, 2), "host2": seen(1, 3)}
    # As the gateway's address that the bridges of all hosts have.
    for host in told.values():
        for each in host["blue"]:
            each["addresses"] = ["3.3.3.254"]
    found = with_discovered(parse(blue()), told, ["host1", "host2"])
    assert [(each.mac, each.host) for each in found.segment.members] == [
        ("02:00:00:00:00:02", "host1"),
        ("02:00:00:00:00:03", "host2"),
    ]
    (warning,) = found.warnings
    assert "segment blue: several hosts saw the same MAC address" in warning
    assert "02:00:00:00:00:01 (host1, host2)" in warning


def test_a_host_cannot_add_more_members_than_the_limit() -> None:
    told = {"host1": seen(*range(1, LIMIT + 3)), "host2": seen(LIMIT + 9)}
    found = with_discovered(parse(blue()), told, ["host1", "host2"])
    assert len(found.segment.members) == LIMIT + 1
    assert found.warnings == (
        "segment blue: host1 saw 1002 members, and only 1000 are added; list the others in members",
    )


def test_a_host_that_told_nothing_is_named_but_one_without_a_bridge_is_none() -> None:
    with pytest.raises(UnknownHosts) as caught:
        with_discovered(parse(blue()), {"host1": seen(1), "host2": {}}, ["host1", "host2"])
    assert "the members behind the ports of host2 are not known" in str(caught.value)
    told = {"host1": seen(1), "host2": {"blue": None}}
    assert len(with_discovered(parse(blue()), told, ["host1", "host2"]).segment.members) == 1


@pytest.mark.parametrize("mode", ["multicast", "flood"])
def test_who_learns_needs_nobody_to_be_seen(mode: str) -> None:
    segment = parse(blue(mode=mode, group="239.1.1.1"))
    assert with_discovered(segment, {}, ["host1", "host2"]) == (segment, ())


@pytest.mark.parametrize("more", [{"discover": True}, {"discovered": {}}])
@pytest.mark.parametrize("replicate", [True, False])
def test_a_proxy_does_not_rely_on_who_was_seen(more: dict[str, t.Any], replicate: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(blue(mode="proxy", replicate=replicate, **more))
    assert "segment blue: discover: does not go with mode proxy" in str(caught.value)


def discovering(there: t.Iterable[t.Any], *told: int) -> list[tuple[str, str]]:
    """The table of host1 for single members, if host2 tells these and host3 none."""
    hosts = ["host1", "host2", "host3"]
    found = {"host1": seen(), "host2": seen(*told), "host3": {"blue": None}}
    segment = with_discovered(parse(blue()), found, hosts).segment
    vteps = locate(segment, "host1", {host: VTEPS[host] for host in hosts})
    there = list(there)
    changes = change(segment, vteps, observed_of(there), HOST_ID, INTERFACES, ADDRESSES).changes
    after = outcome(changes, there)
    return sorted((each.mac, each.dst) for each in after if isinstance(each, Fdb) and not each.many)


def test_who_is_silent_keeps_its_entry_until_somebody_else_has_it() -> None:
    listed = [member(1, "host2"), member(2, "host3"), member(3, "host3"), member(4, "host4")]
    there = outcome(plan(blue(members=listed), Observed(None, None)).changes, ())
    assert discovering(there, 2, 9) == [
        ("02:00:00:00:00:01", "192.0.2.12"),  # silent
        ("02:00:00:00:00:02", "192.0.2.12"),  # has moved
        ("02:00:00:00:00:03", "192.0.2.13"),  # on a host without a bridge now
        ("02:00:00:00:00:09", "192.0.2.12"),  # new
        # The last one was on a host that is none of the segment's any more.
    ]


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
