# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's own lease: written, put right, renewed, or left to others. See fakes.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    DuplicateHostID,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
)

from tests.unit.leases.network import SUBNETS
from tests.unit.sync.fake_kernel import ADDRESS
from tests.unit.sync.fakes import OWN, World, lease, tunnels, world


def test_a_deleted_own_lease_is_written_again(running: World) -> None:
    running.etcd.delete_lease(OWN)
    assert not running.follow(), "a listing finds out what there is instead"
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_after_a_restart_it_is_still_the_same_subnet_that_the_host_wants(running: World) -> None:
    """Its containers have addresses of it."""
    running.etcd.delete_lease(OWN)
    running.start()
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()
    assert running.status()["subnet"] == OWN.subnet


def test_a_changed_own_lease_is_put_right(running: World) -> None:
    running.etcd.put_lease(OWN._replace(data=Vtep(1, "02:00:00:00:00:99")))
    assert not running.follow()
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()


def test_a_rewritten_own_lease_that_says_the_same_is_no_news(running: World) -> None:
    running.etcd.put_lease(OWN)
    assert running.follow()
    running.agent.save()
    saved = json.loads(Path(running.settings.state_file).read_text().partition("\n")[2])
    assert saved["revisions"]["10.5.200.0-24"][1] == running.etcd.revision


def test_an_own_lease_taken_by_another_machine_again_and_again_is_left_to_it(
    running: World,
) -> None:
    """A cloned machine: each would take the lease back for ever."""
    clone = OWN._replace(public_ip="172.21.0.66")
    for _time in range(3):
        running.etcd.put_lease(clone)
        assert not running.follow()
        running.list()
        assert running.etcd.lease_of(200) == OWN.to_json()
    running.etcd.put_lease(clone)
    running.list()
    assert running.etcd.lease_of(200) == clone.to_json()
    assert "again and again" in running.error("lease")
    assert "the data plane stays as it is" in running.error("lease")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    # Some time later it is tried again.
    running.clock.now += 601
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()
    assert running.error("lease") == ""


def test_a_lease_that_another_host_took_is_not_fought_for(running: World) -> None:
    taken = lease(200, public_ip="172.21.0.66", host_id="b" * 32, hostname="other")
    running.etcd.put_lease(taken)
    running.list()
    assert "the data plane stays as it is" in running.error("lease")
    assert running.etcd.lease_of(200) == taken.to_json()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    assert running.status()["subnet"] == "10.5.200.0/24"


def test_who_lost_a_lease_follows_the_playbook_to_another_one(running: World) -> None:
    """The key of the former lease is another host's, and stays: only the new one has an event."""
    running.etcd.put_lease(lease(200, public_ip="172.21.0.66", host_id="b" * 32, hostname="other"))
    running.list()
    assert running.error("lease")
    running.etcd.put_lease(OWN._replace(subnet="10.5.150.0/24"))
    assert not running.follow(), "that asks for a listing"
    running.list()
    assert running.error("lease") == ""
    assert running.status()["subnet"] == "10.5.150.0/24"
    assert running.kernel.tunnels() >= tunnels(1, 2, 3)


def test_a_clone_of_this_host_gets_no_lease(tmp_path: Path) -> None:
    """Without one of before there is nothing to go on with."""
    with world(tmp_path, own=False) as host:
        host.etcd.put_lease(OWN._replace(public_ip="172.21.0.66", hostname="original"))
        with pytest.raises(DuplicateHostID, match="a clone of"):
            host.list()
        assert host.kernel.batches == []


def test_a_lease_with_a_ttl_is_renewed_until_it_is_gone(tmp_path: Path) -> None:
    with world(tmp_path, own=False, ttl=30) as host:
        host.list()
        number = int(host.status()["subnet"].split(".")[2])
        assert host.agent.keep_alive()
        host.etcd.expire()
        assert not host.etcd.lease_of(number)
        assert not host.agent.keep_alive(), "then a listing writes it again"
        assert not host.follow()
        host.list()
        assert json.loads(host.etcd.lease_of(number))["PublicIP"] == ADDRESS
        assert host.agent.keep_alive()


def test_a_lease_that_the_playbook_renewed_is_kept_alive_as_it_is_now(tmp_path: Path) -> None:
    """It says the same, and hangs on another etcd lease."""
    with world(tmp_path, own=False, ttl=30) as host:
        host.list()
        (former,) = host.etcd.etcd_leases
        key = SUBNETS + host.status()["subnet"].replace("/", "-")
        value = host.etcd.keys[key].value
        host.etcd.txn([], [Op.put(key, value, host.etcd.lease_grant(30).id)])
        assert host.follow()
        host.etcd.lease_revoke(former)
        assert host.agent.keep_alive()
        assert key in host.etcd.keys


def test_a_move_by_the_playbook_is_followed(running: World) -> None:
    """The playbook writes the new lease and removes the old one."""
    moved = OWN._replace(subnet="10.5.201.0/24")
    running.etcd.put_lease(moved)
    running.etcd.delete_lease(OWN)
    assert not running.follow()
    running.list()
    assert running.status()["subnet"] == "10.5.201.0/24"
    assert running.logged("this host's subnet was 10.5.200.0/24, 10.5.201.0/24 now")
    # No container was on the bridge, so nothing of before is left there.
    assert [each.address for each in running.kernel.of(Address) if each.dev == "cni0"] == [
        "10.5.201.1/24"
    ]
