# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that a listing does not name: removed if they were deleted, retained if etcd lost them. See
fakes.py."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdUnreachable,
)

from tests.unit.sync.fakes import OWN, VXLAN, World, lease, tunnel, tunnels


def emptied(host: World) -> None:
    """etcd lost everything, and got its config back."""
    host.etcd.empty()
    host.etcd.put_config(VXLAN)


def test_an_emptied_etcd_removes_no_peers_for_a_while(running: World) -> None:
    emptied(running)
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json(), "our own lease is back"
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    assert running.logged("its cluster is 8, and 7 was known. 3 peers") == 1
    assert running.status()["retained"] == 3
    running.clock.now += 599
    running.agent.check("drift")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    running.clock.now += 2
    running.agent.check("drift")
    assert running.kernel.tunnels() == set()
    assert running.logged("3 peers are not retained any longer") == 1
    assert running.status()["retained"] == 0


def test_retained_peers_that_come_back_stay_for_good(running: World) -> None:
    emptied(running)
    running.list()
    running.etcd.put_lease(lease(1))
    # This one comes back with another subnet.
    running.etcd.put_lease(lease(12, public_ip=lease(2).public_ip, data=lease(2).data))
    assert running.follow()
    moved = tunnel(lease(12, public_ip=lease(2).public_ip, data=lease(2).data))
    assert running.kernel.tunnels() == {*tunnels(1, 3), moved}
    assert running.status()["retained"] == 1
    running.clock.now += 601
    running.agent.check("drift")
    assert running.kernel.tunnels() == {*tunnels(1), moved}


def test_a_retained_peer_that_comes_back_and_leaves_is_gone(running: World) -> None:
    emptied(running)
    running.list()
    running.etcd.put_lease(lease(1))
    running.etcd.delete_lease(lease(1))
    assert running.follow()
    running.list()
    assert running.kernel.tunnels() == tunnels(2, 3)
    assert running.status()["retained"] == 2


def test_a_restart_does_not_forget_who_is_retained(running: World) -> None:
    emptied(running)
    running.list()
    running.agent.save()
    running.clock.now += 300
    running.start()
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    running.clock.now += 301
    running.agent.check("drift")
    assert running.kernel.tunnels() == set()


def test_an_etcd_restored_from_a_backup_removes_no_peers(running: World) -> None:
    before = running.etcd.revision
    running.etcd.put_lease(lease(4))
    assert running.follow()
    running.etcd.restore(before)
    # By the time it is seen, it is past the revision that was known.
    for _time in range(3):
        running.etcd.put_lease(lease(5))
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4, 5)
    assert running.logged("it had no such key 10.5.4.0-24 as was known") == 1


def test_a_peer_that_left_while_nobody_watched_is_removed(running: World) -> None:
    running.etcd.delete_lease(lease(2))
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 3)
    assert running.status()["retained"] == 0


@pytest.mark.parametrize("number", [2, 4])
def test_an_overwritten_lease_that_was_deleted_meanwhile_is_not_retained(
    running: World, number: int
) -> None:
    """By its last write, which was no lease, it is known to have been there."""
    running.etcd.put_lease(lease(4))
    running.etcd.put_garbage(number)
    assert running.follow()
    running.etcd.delete_lease(lease(number))
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4) - tunnels(number)
    assert running.status()["retained"] == 0


def test_where_etcd_has_forgotten_what_was_the_peer_is_retained(running: World) -> None:
    running.etcd.delete_lease(lease(2))
    running.etcd.put_lease(lease(4))
    running.etcd.compact()
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4)
    assert running.logged("which was known, is compacted. 1 peers") == 1


def test_an_etcd_that_names_no_peer_at_all_removes_none(running: World) -> None:
    running.etcd.delete_lease(lease(1), lease(2), lease(3))
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    assert running.logged("it names no peer at all") == 1


def test_events_of_another_cluster_ask_for_a_listing(running: World) -> None:
    known = running.agent.revision
    running.etcd.put_lease(lease(4))
    (response,) = running.etcd.events_after(known)
    assert not running.agent.take_events([response._replace(cluster=99)])
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_events_before_the_one_that_asks_for_a_listing_are_not_taken_for_lost(
    running: World,
) -> None:
    """A peer leaves, and right after it the config is written: both arrive at once. The listing
    must not take the peer for one that etcd lost."""
    running.etcd.delete_lease(lease(2))
    running.etcd.put_lease(lease(4))
    running.etcd.put_config(VXLAN)
    known = running.agent.revision
    assert not running.follow()
    assert running.agent.revision == known
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 3, 4)
    assert running.status()["retained"] == 0
    assert running.logged("history") == 0


def test_a_listing_that_fails_half_way_changes_nothing(running: World) -> None:
    """etcd goes away after the leases were listed, when it is asked what there was before."""
    running.etcd.delete_lease(lease(2))
    found = running.registry.find()
    running.etcd.away = True
    with pytest.raises(EtcdUnreachable):
        running.agent.take_listing(found)
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    running.etcd.away = False
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 3)
