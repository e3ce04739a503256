# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge that a task asks for, where it has addresses already."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Link,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Change
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.bridge_subnet import (
    OtherAddress,
    PortsLeft,
    in_the_way,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.bridges import (
    change,
    parse,
)

CNI0 = Link("cni0", "bridge", mtu=1450, mac="0a:00:00:00:00:01", master="", up=True)
OLD, NEW, OTHER = (Address("cni0", "10.5.%d.1/24" % n) for n in (72, 94, 9))
ULA = Address("cni0", "fd00::1/64")


def plan(
    held: t.Iterable[Address],
    former: t.Sequence[str] = (),
    exclusive: bool = False,
    ports: t.Sequence[str] = (),
) -> tuple[Change, ...]:
    asked = parse(
        {
            "name": "cni0",
            "addresses": [NEW.address],
            "former": list(former),
            "exclusive": exclusive,
            "state": "present",
            **dict.fromkeys(["mtu", "mac", "stp"]),
            "force": False,
        }
    )
    return change(asked, CNI0, [CNI0, *held], None, lambda: ports).changes


def test_the_address_of_a_former_subnet_is_replaced() -> None:
    assert set(plan([OLD, ULA], [OLD.address])) == {Change(OLD, None), Change(None, NEW)}
    assert plan([NEW, OLD], [OLD.address]) == (Change(OLD, None),)
    # Once is enough, and ports are no matter where nothing goes.
    assert plan([NEW, ULA], [OLD.address], ports=["veth1"]) == ()


def test_addresses_of_others_are_not_replaced() -> None:
    with pytest.raises(OtherAddress, match=OTHER.address):
        plan([OLD, OTHER], [OLD.address])
    with pytest.raises(OtherAddress, match=OLD.address):
        plan([OLD])
    assert Change(OTHER, None) in plan([OLD, OTHER], exclusive=True)
    with pytest.raises(InvalidInput, match="former"):
        plan([], [NEW.address])


def test_a_bridge_in_use_keeps_its_subnet() -> None:
    with pytest.raises(PortsLeft) as caught:
        plan([OLD], [OLD.address], ports=["veth1", "veth2"])
    for words in ("cni0", "veth1, veth2", OLD.address):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("former", "network", "known"),
    [
        ((), None, ()),
        ((OLD.address,), None, (OLD.address,)),
        # No gateway of a subnet, or not the overlay's.
        ((), "10.5.0.0/16", (OLD.address, OTHER.address)),
        ((), "10.6.0.0/16", ()),
    ],
)
def test_what_is_in_the_way_is_told_apart(
    former: tuple[str, ...], network: str | None, known: tuple[str, ...]
) -> None:
    odd = Address("cni0", "10.5.72.7/24")
    held = [NEW, OLD, OTHER, odd, ULA]
    found, other = in_the_way(held, NEW.address, former, network)
    assert tuple(found) == known
    assert set(found) | set(other) == {OLD.address, OTHER.address, odd.address}
