# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent with a kernel and an etcd that are values: see fakes.py. What a real host does of all
this is in tests/integration/sync."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Link,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    NoNetwork,
)

from tests.unit.sync.fake_kernel import ADDRESS, VTEP
from tests.unit.sync.fakes import OWN, World, lease, tunnel, tunnels, world


def test_the_first_listing_makes_devices_and_peers(host: World) -> None:
    host.list()
    assert host.kernel.tunnels() == tunnels(1, 2, 3)
    assert set(host.kernel.of(Address)) >= {
        Address(VTEP, "10.5.200.0/32"),
        Address("cni0", "10.5.200.1/24"),
    }
    made = host.kernel.link(VTEP)
    assert isinstance(made, Link)
    assert (made.mtu, made.mac) == (1450, OWN.data.mac)
    found = host.status()
    assert found["subnet"] == "10.5.200.0/24"
    assert (found["peers"], found["revision"], found["errors"]) == (3, host.etcd.revision, [])
    assert found["repaired"] == 0


def test_a_second_listing_of_the_same_changes_nothing(running: World) -> None:
    running.kernel.batches.clear()
    running.list()
    assert running.kernel.batches == []
    assert running.agent.check("drift") == ()


def test_a_host_without_a_lease_gets_one(tmp_path: Path) -> None:
    with world(tmp_path, own=False) as host:
        host.etcd.put_lease(lease(1))
        host.list()
        subnet = host.status()["subnet"]
        assert host.logged("this host holds the lease of " + subnet)
        number = int(subnet.split(".")[2])
        assert json.loads(host.etcd.lease_of(number))["PublicIP"] == ADDRESS
        assert host.kernel.tunnels() == tunnels(1)


def test_without_a_config_nothing_is_made(tmp_path: Path) -> None:
    with world(tmp_path) as host:
        host.etcd.delete_config()
        with pytest.raises(NoNetwork, match="no network config"):
            host.list()
        assert host.kernel.batches == []


def test_it_leaves_what_a_boot_and_the_container_runtime_need(running: World) -> None:
    text = Path(running.settings.subnet_file).read_text()
    assert text.splitlines()[1:3] == ["FLANNEL_SUBNET=10.5.200.1/24", "FLANNEL_MTU=1450"]
    state = Path(running.settings.state_file)
    state.unlink()
    running.agent.save()
    assert not state.exists(), "what has not changed is not written again"
    running.etcd.put_lease(lease(4))
    assert running.follow()
    running.agent.save()
    assert state.exists()


# --- peers come and go ----------------------------------------------------------------------------


def test_a_peer_that_joins_is_three_entries(running: World) -> None:
    running.kernel.batches.clear()
    running.etcd.put_lease(lease(4))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4)
    assert [[str(change).split()[:2] for change in batch] for batch in running.kernel.batches] == [
        [["add", "neigh"]],
        [["add", "fdb"]],
        [["add", "route"]],
    ]
    assert running.logged("1 leases written, 0 removed: 3 changes, 4 peers") == 1


def test_a_peer_that_leaves_takes_its_entries_along(running: World) -> None:
    running.etcd.delete_lease(lease(2))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 3)
    assert running.status()["peers"] == 2


def test_a_peer_with_another_address_is_changed_in_place(running: World) -> None:
    moved = lease(2, public_ip="172.21.0.99")
    running.etcd.put_lease(moved)
    assert running.follow()
    assert running.kernel.tunnels() == {*tunnels(1, 3), tunnel(moved)}


def test_a_lease_that_may_not_be_used_is_told_of(running: World) -> None:
    """Somebody writes a lease that covers what this host needs: its own subnet, its gateway."""
    for taken in (lease(200, subnet="10.5.200.128/25"), lease(9, public_ip=ADDRESS)):
        running.etcd.put_lease(taken)
        assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    unused = running.status()["unused"]
    assert len(unused) == 2
    assert "this host's own subnet" in unused[0]
    assert "is an address of this host" in unused[1]


# --- values that are no lease ---------------------------------------------------------------------


@pytest.mark.parametrize("listed", [False, True])
def test_an_overwritten_lease_keeps_its_peer(running: World, listed: bool) -> None:
    running.etcd.put_garbage(2)
    if listed:
        running.list()
    else:
        assert running.follow()
        assert running.logged("key '10.5.2.0-24' is not used")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    assert running.status()["peers"] == 3
    assert [each for each in running.status()["unused"] if "10.5.2.0-24" in each]
    # It is known what the lease was: so what is lost of it is put back.
    running.kernel.drop(*(each for each in running.kernel.of(Route) if each.dst == "10.5.2.0/24"))
    assert running.agent.check("drift")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    moved = lease(2, public_ip="172.21.0.99")
    running.etcd.put_lease(moved)
    assert running.follow()
    assert running.kernel.tunnels() == {*tunnels(1, 3), tunnel(moved)}
    assert running.status()["unused"] == []


def test_an_overwritten_lease_that_is_deleted_loses_its_peer(running: World) -> None:
    running.etcd.put_garbage(2)
    assert running.follow()
    running.etcd.delete_lease(lease(2))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 3)
    assert running.status()["unused"] == []


def test_what_the_kernel_holds_for_an_unreadable_key_stays(running: World) -> None:
    """After a start without a state nobody knows what the lease was."""
    running.etcd.put_garbage(2)
    Path(running.settings.state_file).unlink()
    running.start()
    running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    # Deleted, it is known to be gone.
    running.etcd.delete_lease(lease(2))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 3)
