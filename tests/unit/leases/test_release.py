# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releasing leases, on an etcd in memory.

These stand beside the whole runs in tests/integration/leases, which have a real etcd.
"""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases import (
    release,
)

from tests.unit.leases.network import Network, host


@pytest.mark.parametrize("ttl", [0, 60])
def test_a_released_lease_leaves_nothing(network: Network, ttl: int) -> None:
    config = dict(network.etcd.keys)
    lease = network.acquire(host(1), ttl=ttl).decision.after
    assert network.release(host(1)) == (lease,)
    assert network.etcd.keys == config
    assert network.etcd.etcd_leases == {}
    assert network.release(host(1)) == ()


def test_only_the_lease_of_this_identity_is_released(network: Network) -> None:
    network.flanneld("10.5.72.0-24", host(1).public_ip)
    network.put("10.5.73.0-24", "garbage")
    network.acquire(host(2))
    before = dict(network.etcd.keys)
    assert network.release(host(1)) == ()
    assert network.etcd.keys == before


def test_a_lease_that_changes_while_it_is_released_is_released_all_the_same(
    network: Network,
) -> None:
    network.acquire(host(1))
    renamed: Host = host(1, hostname="renamed")
    network.etcd.before_write = [lambda: network.acquire(renamed)]
    assert [lease.hostname for lease in network.release(host(1))] == ["renamed"]
    assert network.leases == ()
    assert network.guards == {}


def test_two_leases_of_one_host_are_both_released(network: Network) -> None:
    network.acquire(host(1))
    (lease,) = network.leases
    network.put("10.5.199.0-24", lease.to_json())
    assert len(release.release(network.registry(), host(1).host_id)) == 2
    assert network.leases == ()
    network.check_history()
