# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of etcd that do not arrive, on an etcd in memory.

These stand beside the whole runs in tests/integration/leases, which have a real etcd.
"""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdUnreachable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
)

from tests.unit.leases.network import Network, guards_of, host


@pytest.mark.parametrize("ttl", [0, 60])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_answer_that_is_lost_is_found_out_by_reading(
    network: Network, ttl: int, lost: int
) -> None:
    """Of a first lease, of a move, which takes two transactions, and of a release."""
    network.etcd.lost_answers = lost
    done = network.acquire(host(1), ttl=ttl)
    assert done.changed
    assert done.decision.before is None
    assert network.leases == (done.decision.after,)

    network.etcd.lost_answers = lost
    old = done.decision.after
    moved = network.acquire(host(1), Wish(subnet="10.5.9.0/24", move=True), ttl=ttl)
    assert moved.changed
    assert moved.decision.before == old
    assert network.leases == (moved.decision.after,)
    assert network.guards == guards_of(moved.decision.after)

    network.etcd.lost_answers = 1
    assert network.release(host(1)) == (moved.decision.after,)
    assert network.leases == ()


def test_a_write_that_was_not_sent_is_an_error(network: Network) -> None:
    def cut() -> None:
        raise EtcdUnreachable("connection refused.")

    network.etcd.before_write = [cut]
    with pytest.raises(EtcdUnreachable):
        network.acquire(host(1))
    assert network.leases == ()


def test_an_etcd_lease_that_runs_out_while_it_is_renewed_is_granted_anew(network: Network) -> None:
    old = network.acquire(host(1), ttl=60).decision.after
    etcd = network.etcd
    renew = etcd.lease_keepalive

    def runs_out(lease: int) -> int:
        etcd.lease_revoke(lease)
        etcd.lease_keepalive = renew  # type: ignore[method-assign]
        return renew(lease)

    etcd.lease_keepalive = runs_out  # type: ignore[method-assign]
    done = network.acquire(host(1), ttl=60)
    assert done.changed
    assert done.decision.after.subnet == old.subnet
    assert network.leases == (done.decision.after,)
