# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host restores at boot: read back as written, and refused if one bit is another."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import files
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import state
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.retention import Left
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.state import (
    DamagedState,
    State,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.given import configs, leases


def of(config: NetworkConfig, chosen: list[Lease]) -> State:
    values = {lease.key_name: lease.to_json() for lease in chosen}
    name = chosen[0].key_name
    return State(config, values, name, 77, "eth0", "192.0.2.1/24", (name,), Left(12.5, "a", 3.5))


states = st.builds(of, configs(), st.lists(leases(), min_size=1, max_size=5))


@given(given=states)
@settings(max_examples=50)
def test_it_is_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, given: State) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    state.save(str(path), given)
    found = state.load(str(path))
    assert found == given
    assert {lease.key_name: lease.to_json() for lease in found.leases} == given.values
    assert found.own_lease.key_name == given.own


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "state"
    lease = Lease("10.5.1.0/24", "192.0.2.1", "vxlan", Vtep(1, "02:00:00:00:00:01"))
    state.save(str(path), of(_CONFIG, [lease]))
    return path


_CONFIG = state.parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')


def test_every_changed_bit_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for place in range(len(whole)):
        written.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedState) as caught:
            state.load(str(written))
        assert str(written) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_cut_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        with pytest.raises(DamagedState):
            state.load(str(written))


def test_nobody_else_can_read_it(written: Path) -> None:
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert [path.name for path in written.parent.iterdir()] == ["state"]


def test_none_is_none(tmp_path: Path) -> None:
    assert state.load(str(tmp_path / "state")) is None


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedState, match="cannot be read: Is a directory"):
        state.load(str(tmp_path))


def test_a_write_that_fails_leaves_the_old_one(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(str(written), b"new", 0o600)
    assert written.read_bytes() == whole
    assert [path.name for path in written.parent.iterdir()] == ["state"]
