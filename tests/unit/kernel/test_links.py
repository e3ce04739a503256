# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices: changed in place where the kernel can, made anew where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Entry,
    Fdb,
    Link,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.links import (
    ForeignDevice,
    complete,
    plan_link,
    remove_link,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    Change,
    inverse,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import apply, kernel_of

OPTIONS: dict[str, Any] = {
    "ageing": 300,
    "dev": "eth0",
    "dstport": 8472,
    "gbp": False,
    "id": 1,
    "learning": False,
    "local": "10.168.0.11",
    "ttl": 0,
}
VTEP = Link(
    "flannel.1", "vxlan", 1450, "02:00:00:00:00:01", "", True, tuple(sorted(OPTIONS.items()))
)
HELD: list[Entry] = [
    Address("flannel.1", "10.5.94.0/32"),
    Neigh("flannel.1", "10.5.7.0", "02:00:00:00:00:07"),
    Fdb("flannel.1", "02:00:00:00:00:07", "10.168.0.7"),
    Route("10.5.7.0/24", "flannel.1", "10.5.7.0", onlink=True),
]
ADDRESS = [Address("flannel.1", "10.5.94.0/32")]


def wanted(**options: Any) -> Link:
    """A device of which only some is said."""
    return Link("flannel.1", "vxlan", options=tuple(sorted(options.items())))


def test_a_device_that_is_not_there_is_made_with_its_addresses() -> None:
    assert plan_link(VTEP, None, ADDRESS) == ((Change(None, VTEP), Change(None, ADDRESS[0])), ())


def test_what_is_as_desired_needs_no_change() -> None:
    for link in (VTEP, wanted(), wanted(id=1, local="10.168.0.11")):
        assert plan_link(link, VTEP, ADDRESS, HELD) == ((), ())


def test_what_is_left_open_stays_as_it_is() -> None:
    assert complete(wanted(learning=True), VTEP) == VTEP._replace(
        options=tuple(sorted({**OPTIONS, "learning": True}.items()))
    )
    assert complete(wanted(), None) == wanted()
    assert complete(wanted()._replace(master="cni0", up=False), VTEP) == VTEP._replace(
        master="cni0", up=False
    )


@pytest.mark.parametrize(
    "change", [{"mtu": 1400}, {"mac": "02:00:00:00:00:02"}, {"master": "cni0"}, {"up": False}]
)
def test_mtu_mac_master_and_state_change_in_place(change: dict[str, Any]) -> None:
    link = wanted()._replace(**change)
    assert plan_link(link, VTEP, ADDRESS, HELD) == ((Change(VTEP, VTEP._replace(**change)),), ())


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_live_options_change_in_place_and_others_make_the_device_anew(option: str) -> None:
    new = {"dev": "eth1", "local": "10.168.0.12"}.get(option, 7)
    changes, reasons = plan_link(wanted(**{option: new}), VTEP, ADDRESS, HELD)
    target = complete(wanted(**{option: new}), VTEP)
    if option in ("ageing", "learning", "ttl"):
        assert (changes, reasons) == ((Change(VTEP, target),), ())
    else:
        assert [change.kind for change in changes] == [
            *[Route, Fdb, Neigh, Address, Link],
            *[Link, Address, Neigh, Fdb, Route],
        ]
        old = "off" if option == "gbp" else OPTIONS[option]
        assert reasons == ("%s %s cannot become %s on a live device" % (option, old, new),)


entries = st.lists(
    st.sampled_from(HELD + [Address("flannel.1", a) for a in ("10.5.9.0/32", "fd00::1/64")]),
    unique=True,
)


@given(
    st.sampled_from([wanted(), wanted(id=7), wanted(learning=True), VTEP._replace(mtu=1400)]),
    st.lists(
        st.sampled_from(["10.5.94.0/32", "fd00::1/64", "fd00::1/48"]).map(
            lambda text: Address("flannel.1", text)
        ),
        unique_by=lambda address: address.key,
    ),
    entries,
    st.booleans(),
)
def test_the_device_ends_as_desired_with_all_that_it_held(
    link: Link, given_addresses: list[Address], held: list[Entry], exclusive: bool
) -> None:
    before = kernel_of([VTEP, *held])
    changes, _ = plan_link(link, VTEP, given_addresses, held, exclusive)
    after = apply(changes, before)
    expected = kernel_of(entry for entry in held if not (exclusive and isinstance(entry, Address)))
    expected.update(kernel_of([complete(link, VTEP), *given_addresses]))
    assert after == expected
    assert apply(inverse(changes), after) == before
    rest = [entry for entry in after.values() if not isinstance(entry, Link)]
    assert plan_link(link, complete(link, VTEP), given_addresses, rest, exclusive) == ((), ())


@given(entries)
def test_a_removed_device_takes_all_with_it_and_the_inverse_brings_it_back(
    held: list[Entry],
) -> None:
    changes = remove_link("vxlan", VTEP, held).changes
    assert apply(changes, kernel_of([VTEP, *held])) == {}
    assert changes[-1] == Change(VTEP, None)
    assert apply(inverse(changes), {}) == kernel_of([VTEP, *held])
    assert remove_link("vxlan", None, ()).changes == ()


@pytest.mark.parametrize(("kind", "words"), [("bridge", "is a bridge device"), ("", "is hardware")])
def test_a_device_of_another_kind_is_somebody_elses(kind: str, words: str) -> None:
    there = VTEP._replace(kind=kind, options=())
    for attempt in (
        lambda: plan_link(VTEP, there, ()),
        lambda: remove_link("vxlan", there, ()),
    ):
        with pytest.raises(ForeignDevice, match=r"^name: device flannel\.1 .*" + words):
            attempt()
