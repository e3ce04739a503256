# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's identity, and the MAC addresses made from it."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import (
    parse_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.identity import (
    host_id,
    stable_mac,
)
from hypothesis import given
from hypothesis import strategies as st

machine_ids = st.integers(1, (1 << 128) - 1).map("{:032x}".format)


@given(machine_ids)
def test_a_host_id_is_always_the_same_and_does_not_show_the_machine_id(machine_id: str) -> None:
    found = host_id(machine_id)
    assert found == host_id(machine_id.upper() + "\n")
    assert len(found) == 32
    assert int(found, 16)
    assert found != machine_id


@given(st.lists(machine_ids, unique=True, min_size=2, max_size=20))
def test_different_machines_have_different_host_ids(machine_ids: list[str]) -> None:
    assert len(set(map(host_id, machine_ids))) == len(machine_ids)


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, "a" * 31, "a" * 33, "g" * 32])
def test_what_is_no_machine_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not 32 hex digits"):
        host_id(text)


@given(st.text(), st.text())
def test_a_stable_mac_is_a_locally_administered_unicast_one(identity: str, name: str) -> None:
    mac = stable_mac(identity, name)
    assert mac == stable_mac(identity, name) == parse_mac("mac", mac)
    assert int(mac[:2], 16) & 3 == 2


def test_each_device_of_each_host_has_a_mac_of_its_own() -> None:
    macs = {stable_mac("host%d" % n, "vni %d" % vni) for n in range(1000) for vni in range(10)}
    assert len(macs) == 10_000
