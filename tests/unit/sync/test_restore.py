# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A boot: all comes back from disk, without etcd. See fakes.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import (
    restore,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.agent import (
    UnderlayChanged,
)

from tests.unit.sync.fakes import World, lease, tunnels


def test_a_boot_brings_everything_back_without_etcd(running: World) -> None:
    before = dict(running.kernel.entries.items())
    running.etcd.away = True
    Path(running.settings.subnet_file).unlink()
    restore.restore(running.settings, running.boot())
    assert running.kernel.entries == before
    assert running.status()["peers"] == 3
    assert running.status()["repaired"] == 0
    assert Path(running.settings.subnet_file).exists()
    # The service that starts after it finds nothing to do.
    running.kernel.batches.clear()
    running.etcd.away = False
    running.start()
    running.list()
    assert running.kernel.batches == []


def test_a_boot_waits_for_the_underlay(running: World) -> None:
    agent = running.boot()
    address = running.kernel.address
    running.kernel.drop(address)
    slept: list[float] = []
    sleep = running.clock.sleep

    def until_it_is_there(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds)
        if len(slept) == 5:
            running.kernel.put(address)

    running.clock.sleep = until_it_is_there  # type: ignore[method-assign]
    restore.restore(running.settings, agent)
    assert len(slept) == 5
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_a_boot_with_another_address_restores_nothing(running: World) -> None:
    agent = running.boot()
    running.kernel.move("172.21.0.11")
    with pytest.raises(UnderlayChanged, match="nothing is restored"):
        restore.restore(running.settings, agent)
    assert running.kernel.batches == []
    # With etcd the lease follows.
    running.list()
    assert json.loads(running.etcd.lease_of(200))["PublicIP"] == "172.21.0.11"
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_what_left_while_the_machine_was_off_is_removed(running: World) -> None:
    restore.restore(running.settings, running.boot())
    running.etcd.delete_lease(lease(2))
    running.etcd.put_lease(lease(4))
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 3, 4)


def test_a_first_boot_has_nothing_to_restore(host: World) -> None:
    restore.restore(host.settings, host.agent)
    assert host.kernel.batches == []
