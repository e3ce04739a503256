# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The alloc backend: hosts have leases and subnet.env, and nothing else.

The tests share a fleet: the first one builds it, the last one takes it apart.
"""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.playbooks import GUARDS, SUBNETS, Ansible, Run, Site
from tests.lab import Host, Lab
from tests.lab.waiting import wait

SYNC = "/etc/flatnet/sbin/flatnet-sync"
NOTHING_TO_PING = "nothing was pinged: the alloc backend carries no packets"


class Built(t.NamedTuple):
    """A fleet, and how it came to be."""

    site: Site
    before: dict[str, str]
    checked: Run
    ran: Run

    def play(self, name: str = "site", backend: str = "alloc", **more: str) -> Run:
        variables: dict[str, t.Any] = {"flatnet_backend": {"type": backend}, **more}
        return self.site.play(f"playbooks/{name}.yml", "--diff", **variables)


@pytest.fixture(scope="module")
def built(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Built:
    """Two hosts that flatnet-sync looks after."""
    site = Site(lab_factory(hosts=2), ansible, sync="service")
    before = site.kernel()
    variables = {"flatnet_backend": {"type": "alloc"}}
    checked = site.play("playbooks/site.yml", "--check", "--diff", **variables)
    assert site.lab.etcd.get_prefix("/") == {}
    return Built(site, before, checked, site.play("playbooks/site.yml", "--diff", **variables))


def status(host: Host) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads(host.exec([SYNC, "status", "--json"], check=True).stdout)
    return found


def routes(site: Site) -> dict[str, str]:
    """What is routed to peers."""
    command = ["ip", "route", "show", "proto", "110"]
    return {host.name: host.exec(command, check=True).stdout for host in site.hosts}


def test_hosts_have_leases_and_subnet_env_and_no_devices_or_routes(built: Built) -> None:
    site = built.site
    leases = site.leases()
    assert leases.keys() == {host.address for host in site.hosts}
    for host in site.hosts:
        lease = leases[host.address]
        assert not {"BackendType", "BackendData"} & lease.keys()
        subnet = lease["subnet"].replace(".0/", ".1/")
        assert (host.run / "flannel/subnet.env").read_text() == (
            f"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\n"
            "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
        )
    assert site.kernel() == built.before
    assert NOTHING_TO_PING in built.ran.output
    assert built.ran.warnings() == ""


def test_check_predicts_exactly_what_the_run_changes(built: Built) -> None:
    def told(run: Run) -> dict[tuple[str, str], t.Any]:
        return {
            (each["host"], each["task"]): (each["changed"], each["diff"], each.get("skipped"))
            for each in run.records
            if "overlay.verify" not in each["task"]
        }

    assert told(built.checked) == told(built.ran)
    assert built.checked.changed()


def test_the_second_run_changes_nothing(built: Built) -> None:
    again = built.play()
    assert again.changed() == set()
    assert NOTHING_TO_PING in again.output
    assert NOTHING_TO_PING in built.play("verify").output
    assert built.site.kernel() == built.before


def test_flatnet_sync_keeps_the_lease(built: Built) -> None:
    site, host = built.site, built.site.hosts[0]
    wait(lambda: status(host)["connected"], "flatnet-sync watches etcd")
    before = site.leases()
    site.lab.etcd.delete(SUBNETS + before[host.address]["subnet"].replace("/", "-"))
    wait(lambda: site.leases() == before, "the lease is back")
    # A peer comes: it is nobody's, and nothing to warn of.
    key = SUBNETS + site.unheld(1)[0].replace("/", "-")
    site.lab.etcd.put(key, '{"PublicIP":"172.21.0.99","PublicIPv6":null}')
    revision = json.loads(site.lab.etcd.ctl("get", "/", "-w", "json"))["header"]["revision"]
    wait(lambda: status(host)["revision"] >= revision, "flatnet-sync has seen the peer")
    found = status(host)
    assert (found["peers"], found["unused"], found["errors"]) == (0, [], [])
    site.lab.etcd.delete(key)
    assert site.kernel() == built.before


def test_from_alloc_to_vxlan_and_back(built: Built) -> None:
    site = built.site
    subnets = {address: lease["subnet"] for address, lease in site.leases().items()}
    built.play(backend="vxlan")
    site.add_pods()
    assert site.lost(mtu=1450) == []
    assert built.play(backend="vxlan").changed() == set()
    for pod in list(site.lab.pods):
        site.lab.remove_pod(pod)
    back = built.play()
    assert NOTHING_TO_PING in back.output
    assert {address: lease["subnet"] for address, lease in site.leases().items()} == subnets
    assert routes(site) == dict.fromkeys(routes(site), "")
    for host in site.hosts:
        assert site.subnet_env(host)["FLANNEL_MTU"] == "1500"
        wait(lambda host=host: status(host)["backend"] == "alloc", "flatnet-sync went over")
        assert status(host)["errors"] == []
    assert routes(site) == dict.fromkeys(routes(site), "")
    assert built.play().changed() == set()


def test_from_alloc_to_udp_and_back_no_relay_is_left(built: Built) -> None:
    """Leases of both look the same: flatnet-sync goes over when the relay is there, or is gone."""
    site = built.site
    built.play(backend="udp")
    site.add_pods()
    assert site.lost(mtu=1472) == []
    for host in site.hosts:
        wait(lambda host=host: status(host)["backend"] == "udp", "flatnet-sync went over")
        wait(lambda host=host: status(host)["errors"] == [], "it has told so")
    # It has left the lease as the playbook wrote it.
    assert built.play(backend="udp").changed() == set()
    for pod in list(site.lab.pods):
        site.lab.remove_pod(pod)
    built.play()
    for host in site.hosts:
        wait(lambda host=host: status(host)["backend"] == "alloc", "flatnet-sync went over")
        wait(lambda host=host: status(host)["errors"] == [], "it has told so")
        assert host.exec(["ip", "link", "show", "flannel0"]).returncode != 0
        assert not (host.etc / "flatnet/relay.json").exists()
    assert routes(site) == dict.fromkeys(routes(site), "")
    assert built.play().changed() == set()


def test_remove_leaves_nothing(built: Built) -> None:
    site = built.site
    built.play("remove", flatnet_remove="host1,host2")
    assert site.kernel() == built.before
    assert site.lab.etcd.get_prefix(SUBNETS) == {}
    assert site.lab.etcd.get_prefix(GUARDS) == {}
    for host in site.hosts:
        assert not (host.run / "flannel/subnet.env").exists()
        assert not (host.etc / "sysctl.d/90-flatnet.conf").exists()
