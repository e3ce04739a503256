# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel refuses, what drifts, and what changes about the host. See fakes.py."""

from __future__ import annotations

import errno
import json
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Link,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.netlink import Refusal
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    Change,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.agent import (
    UnderlayChanged,
)

from tests.unit.sync.fake_kernel import VTEP
from tests.unit.sync.fakes import World, lease, tunnel, tunnels


def refuse_route_to(*numbers: int) -> t.Callable[[Change], Refusal | None]:
    subnets = ["10.5.%d.0/24" % number for number in numbers]

    def refuse(change: Change) -> Refusal | None:
        wanted = isinstance(change.after, Route) and change.after.dst in subnets
        return Refusal(errno.EINVAL, "") if wanted else None

    return refuse


@pytest.mark.parametrize("listed", [False, True])
def test_a_route_that_the_kernel_refuses_is_that_lease_s_alone(host: World, listed: bool) -> None:
    if not listed:
        host.etcd.delete_lease(lease(2), lease(3))
        host.list()
    host.kernel.refuse = refuse_route_to(2)
    if not listed:
        host.etcd.put_lease(lease(2), lease(3))
        assert host.follow()
    else:
        host.list()
    assert host.kernel.tunnels() == tunnels(1, 3), "nothing half done is left of it"
    assert "refuses what 1 leases ask for, first that of 10.5.2.0/24" in host.error("leases")
    assert host.status()["peers"] == 2
    # It is not tried at each look, but after a while.
    host.kernel.batches.clear()
    host.kernel.refuse = lambda _change: None
    host.agent.check("drift")
    assert host.kernel.batches == []
    host.clock.now += host.settings.check_interval * 0.6
    host.agent.check("drift")
    assert host.kernel.tunnels() == tunnels(1, 2, 3)
    assert host.error("leases") == ""
    assert host.status()["peers"] == 3


def test_a_refused_lease_that_is_written_anew_is_tried_at_once(host: World) -> None:
    host.kernel.refuse = refuse_route_to(2)
    host.list()
    host.kernel.refuse = lambda _change: None
    changed = lease(2, public_ip="172.21.0.99")
    host.etcd.put_lease(changed)
    assert host.follow()
    assert host.kernel.tunnels() == {*tunnels(1, 3), tunnel(changed)}
    assert host.error("leases") == ""


def test_somebody_elses_route_in_the_way_is_left_alone(host: World) -> None:
    taken = Route("10.5.2.0/24", "eth0", "172.21.0.77", protocol=4)
    host.kernel.put(taken)
    host.list()
    assert host.kernel.entries[taken.key] == taken
    assert host.kernel.tunnels() == tunnels(1, 3)
    assert "somebody else" in host.error("routes")
    assert host.status()["peers"] == 2
    host.kernel.drop(taken)
    host.agent.check("drift")
    assert host.kernel.tunnels() == tunnels(1, 2, 3)
    assert host.error("routes") == ""


def test_what_drifts_is_repaired_and_counted(running: World) -> None:
    before = dict(running.kernel.entries)
    running.kernel.drop(*(each for each in running.kernel.of(Neigh) if each.address == "10.5.2.0"))
    running.kernel.put(Route("10.5.99.0/24", VTEP, "10.5.99.0", onlink=True))
    running.agent.check("drift")
    assert running.kernel.entries == before
    assert running.status()["repaired"] == 2
    assert running.logged("repaired: 2 changes") == 1


def test_a_device_that_is_gone_comes_back_with_all(running: World) -> None:
    before = dict(running.kernel.entries)
    for each in [running.kernel.link(VTEP), *running.kernel.entries_on(VTEP)]:
        assert each is not None
        running.kernel.drop(each)
    running.agent.check("drift")
    assert running.kernel.entries == before


# --- this host changes ----------------------------------------------------------------------------


def test_another_address_of_the_underlay_asks_for_a_listing(running: World) -> None:
    running.kernel.move("172.21.0.11")
    with pytest.raises(UnderlayChanged, match=r"from 172\.21\.0\.10 to 172\.21\.0\.11"):
        running.agent.check("drift")
    running.list()
    assert json.loads(running.etcd.lease_of(200))["PublicIP"] == "172.21.0.11"
    made = running.kernel.link(VTEP)
    assert isinstance(made, Link)
    assert made.option["local"] == "172.21.0.11"
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_an_address_that_the_host_gets_is_no_peer_s_any_more(running: World) -> None:
    """A lease that was used says an address that is this host's by now."""
    running.etcd.put_lease(lease(8, public_ip="192.0.2.7"))
    assert running.follow()
    assert running.status()["peers"] == 4
    address = Address("eth0", "192.0.2.7/24")
    running.kernel.put(address)
    running.agent.check("drift")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    assert ["is an address of this host" in each for each in running.status()["unused"]]
    running.kernel.drop(address)
    running.agent.check("drift")
    assert running.status()["peers"] == 4
