# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event by event the agent comes to the same as by listings, and by a boot. See fakes.py."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import (
    restore,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sync.fakes import World, lease, world

# Few subnets, addresses and MACs, so that leases clash; peer 50 is always there.
_numbers = st.integers(1, 5)
_values = st.none() | st.just("garbage") | st.tuples(st.integers(1, 5), st.integers(1, 5))
_events = st.lists(st.lists(st.tuples(_numbers, _values), min_size=1, max_size=5), max_size=8)


def happen(host: World, number: int, value: str | tuple[int, int] | None) -> None:
    if value is None:
        host.etcd.delete_lease(lease(number))
    elif isinstance(value, str):
        host.etcd.put_garbage(number, value)
    else:
        address, mac = value
        public_ip, data = lease(address).public_ip, lease(mac).data
        host.etcd.put_lease(lease(number, public_ip=public_ip, data=data))


def told(host: World) -> dict[str, t.Any]:
    found = host.status()
    kept = ("revision", "peers", "retained", "errors")
    return {"unused": sorted(found["unused"]), **{name: found[name] for name in kept}}


@given(batches=_events)
def test_events_and_listings_come_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, t.Any]]]
) -> None:
    """One host follows events, in batches; one beside it lists everything after each event."""
    with (
        world(tmp_path_factory.mktemp("follows")) as follows,
        world(tmp_path_factory.mktemp("lists")) as lists,
    ):
        for host in (follows, lists):
            host.etcd.put_lease(lease(50))
            host.list()
        for batch in batches:
            for number, value in batch:
                for host in (follows, lists):
                    happen(host, number, value)
                lists.list()
            assert follows.follow()
            assert follows.kernel.tunnels() == lists.kernel.tunnels()
            assert follows.kernel.entries == lists.kernel.entries
            assert told(follows) == told(lists)
            assert follows.agent.desired == lists.agent.desired
            # And it is what a look at everything would make of it.
            assert follows.agent.check("drift") == ()


@given(batches=_events)
def test_a_boot_comes_to_the_same_as_going_on(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, t.Any]]]
) -> None:
    with world(tmp_path_factory.mktemp("boots")) as host:
        host.etcd.put_lease(lease(50))
        host.list()
        for batch in batches:
            for number, value in batch:
                happen(host, number, value)
            assert host.follow()
        host.agent.save()
        before = dict(host.kernel.entries)
        restore.restore(host.settings, host.boot())
        assert host.kernel.entries == before
        host.kernel.batches.clear()
        host.start()
        host.list()
        assert host.kernel.entries == before
        assert host.kernel.batches == []
