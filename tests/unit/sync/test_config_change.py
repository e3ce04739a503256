# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another config of the network: which ones a host goes over to, and when. See fakes.py."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Link,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    NoNetwork,
)

from tests.unit.sync.fake_kernel import VTEP
from tests.unit.sync.fakes import HOST_GW, OWN, VXLAN, World, lease, tunnel, tunnels

OTHER_VNI = VXLAN.replace('"vxlan"', '"vxlan","VNI":7')
SMALLER = VXLAN.replace("10.5.0.0", "10.5.128.0").replace("/16", "/17")
DUAL_STACK = VXLAN.replace("{", '{"EnableIPv6":true,"IPv6Network":"fd00:10::/48",', 1)
OTHER_NETWORK = VXLAN.replace("10.5.0.0", "10.6.0.0")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (HOST_GW, "lease is for the backend vxlan, the network's is host-gw"),
        (OTHER_VNI, "lease is for VNI 1, the network's is 7"),
        (OTHER_NETWORK, "subnet 10.5.200.0/24 is outside the network 10.6.0.0/16"),
        (SMALLER, "3 peers would be outside the network 10.5.128.0/17: 10.5.1.0/24"),
        (DUAL_STACK, "the network's config has EnableIPv6"),
        ("no config", "not usable"),
        (VXLAN.replace("/16", "/17").replace('"Backend"', '"SubnetLen":19,"Backend"'), "outside"),
    ],
)
def test_a_config_that_the_host_cannot_go_over_to_changes_nothing(
    running: World, config: str, reason: str
) -> None:
    running.kernel.batches.clear()
    running.etcd.put_config(config)
    assert not running.follow()
    running.list()
    assert reason in running.error("config")
    assert "run the playbook on this host" in running.error("config")
    assert running.kernel.batches == []
    # Peers come and go under the former one meanwhile.
    running.etcd.put_lease(lease(4))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4)
    # Taken back, it is as if it had never been.
    running.etcd.put_config(VXLAN)
    assert not running.follow()
    running.list()
    assert running.error("config") == ""
    assert running.kernel.tunnels() == tunnels(1, 2, 3, 4)


def test_a_config_that_is_gone_changes_nothing(running: World) -> None:
    running.etcd.delete_config()
    assert not running.follow()
    running.list()
    assert "no network config" in running.error("config")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_without_a_lease_under_another_config_none_is_written(running: World) -> None:
    """Which one it should be, the playbook knows."""
    running.etcd.put_config(HOST_GW)
    running.list()
    running.etcd.delete_lease(OWN)
    running.list()
    assert running.etcd.lease_of(200) == ""
    assert "etcd names no lease of this host" in running.error("lease")
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    # Under the former config it is written again.
    running.etcd.put_config(VXLAN)
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()
    assert running.error("lease") == ""


def test_a_changed_lease_is_put_right_under_the_config_that_the_host_goes_by(
    running: World,
) -> None:
    running.etcd.put_config(HOST_GW)
    running.list()
    running.etcd.put_lease(OWN._replace(data=Vtep(1, "02:00:00:00:00:99")))
    running.list()
    assert running.etcd.lease_of(200) == OWN.to_json()
    assert running.error("config")


def test_an_etcd_without_config_and_without_our_lease_is_not_listened_to(running: World) -> None:
    """As it is after it was emptied."""
    running.etcd.empty()
    with pytest.raises(NoNetwork):
        running.list()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_the_host_goes_over_once_the_playbook_has_moved_its_lease(running: World) -> None:
    running.etcd.put_config(HOST_GW)
    running.list()
    assert running.error("config")
    peers = [lease(n, backend_type="host-gw", data=None) for n in (1, 2)]
    running.etcd.put_lease(*peers)
    running.etcd.put_lease(OWN._replace(backend_type="host-gw", data=None))
    assert not running.follow(), "perhaps the playbook has moved it"
    running.list()
    assert running.error("config") == ""
    assert running.logged("goes over to the network 10.5.0.0/16 over host-gw")
    ours = {each for each in running.kernel.of(Route) if each.protocol == 110}
    assert ours == {Route(each.subnet, "eth0", each.public_ip) for each in peers}
    assert [each for each in running.status()["unused"] if "10.5.3.0/24" in each]


def test_the_host_goes_over_to_another_network_with_its_lease_there(running: World) -> None:
    """The playbook writes a lease of the new network under another key, and so do the peers'."""
    running.etcd.put_config(OTHER_NETWORK)
    running.list()
    assert running.error("config")
    running.etcd.put_lease(lease(1, subnet="10.6.1.0/24"))
    assert running.follow()
    assert running.kernel.tunnels() == tunnels(1, 2, 3)
    running.etcd.put_lease(OWN._replace(subnet="10.6.200.0/24"))
    assert not running.follow(), "perhaps the playbook has moved it"
    running.list()
    assert running.error("config") == ""
    assert running.status()["subnet"] == "10.6.200.0/24"
    assert running.kernel.tunnels() == {tunnel(lease(1, subnet="10.6.1.0/24"))}


def test_a_host_whose_lease_fits_goes_over_by_itself(running: World) -> None:
    running.etcd.put_config(VXLAN.replace('"vxlan"', '"vxlan","MTU":1400'))
    running.list()
    assert running.error("config") == ""
    made = running.kernel.link(VTEP)
    assert isinstance(made, Link)
    assert made.mtu == 1350
    assert running.kernel.tunnels() == tunnels(1, 2, 3)


def test_a_config_that_had_to_wait_is_looked_at_again(running: World) -> None:
    """An MTU that does not fit the underlay, until somebody raises that."""
    running.etcd.put_config(VXLAN.replace('"vxlan"', '"vxlan","MTU":9000'))
    running.list()
    assert "more than 1500, the MTU of eth0" in running.error("config")
    running.kernel.put(Link("eth0", "", 9000, "02:00:00:ff:00:01"))
    running.agent.check("drift")
    assert running.error("config") == ""
    made = running.kernel.link(VTEP)
    assert isinstance(made, Link)
    assert made.mtu == 8950
