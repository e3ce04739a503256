# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host tells of itself while others write what it reads; what a former network leaves."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.modules import Result, run_module
from tests.integration.playbooks import Ansible, Site
from tests.integration.programs import NETWORK, Programs
from tests.lab import Host, Lab
from tests.lab.waiting import wait

UDP = NETWORK.replace("vxlan", "udp")
GARBAGE = "10.5.9.0-24\x1b[2J\nERROR           all is lost\r\u202e\x9b" + "A" * 5000


def test_keys_of_others_neither_steer_a_terminal_nor_fake_a_line(programs: Programs) -> None:
    """Who writes keys below subnets: the status, the journal and a module's warnings show them as
    text, on one line each, and not at any length."""
    program = programs.started()[0]
    programs.put(GARBAGE, "x\x1b[31m")
    programs.put("10.5.77.0-24", '{"PublicIP": "\\u001b[31m\\nERROR"}')
    wait(lambda: len(program.told("unused", [])) == 2, "the garbage")
    for arguments in (["status"], ["status", "--json"]):
        shown = program.run(*arguments).stdout
        assert shown.replace("\n", "").isprintable()
        assert not any(line.startswith("ERROR") for line in shown.splitlines())
        assert "\\x1b[2J" in shown or "\\u001b[2J" in shown
    assert max(map(len, program.run("status").stdout.splitlines())) < 1200
    wait(lambda: "is not used" in program.said(), "the journal")
    assert program.said().replace("\n", "").isprintable()
    assert not any(line.startswith("ERROR") for line in program.said().splitlines())
    result = run_module(
        program.host, "flannel_subnet_info", {"etcd_endpoints": programs.etcd.endpoints}
    )
    assert len(result["warnings"]) == 2
    assert all(each.isprintable() for each in result["warnings"])


def test_the_relays_error_goes_with_the_backend_that_needs_one(programs: Programs) -> None:
    """Bad luck: a network goes over from udp, where a host had no relay, to vxlan."""
    program = programs.begin(UDP)[0].start()
    wait(lambda: "the playbook installs the relay" in program.errors(), "the error")
    programs.lease_for_hosts(NETWORK)
    programs.inside(programs.client.put, "/coreos.com/network/config", NETWORK)
    wait(lambda: program.told("backend") == "vxlan", "the other backend")
    wait(lambda: "relay" not in program.errors(), "the end of the error")


# --- another VNI ----------------------------------------------------------------------------------


@pytest.fixture
def host(programs: Programs) -> Host:
    """As after a boot: without devices of ours."""
    return programs.begin()[0].host


def vtep(host: Host, vni: int, **more: t.Any) -> Result:
    arguments = {"id": vni, "local": host.address, "device": "eth0", "host_id": "a", "sole": True}
    result = run_module(host, "vxlan_vtep", {**arguments, "addresses": ["10.5.9.0/32"], **more})
    assert not result["failed"], result
    return result


def devices(host: Host) -> list[str]:
    found = host.exec(["ip", "-j", "link", "show", "type", "vxlan"], check=True).stdout
    return sorted(each["ifname"] for each in json.loads(found or "[]"))


def test_another_vni_leaves_no_device_with_the_same_address(host: Host) -> None:
    """Bad luck: the network's VNI is changed. Two devices had the host's address in the overlay."""
    vtep(host, 1)
    planned = vtep(host, 2, _ansible_check_mode=True)
    assert "flannel.1" in planned["diff"]["before"]
    assert devices(host) == ["flannel.1"]
    assert vtep(host, 2)["changed"]
    assert devices(host) == ["flannel.2"]
    assert not vtep(host, 2)["changed"]


@pytest.mark.parametrize(
    "other",
    [
        {"mac": "aa:bb:cc:00:00:01"},  # a flanneld's
        {"host_id": "b"},  # another machine's identity, so not made by us here
        {"addresses": ["10.6.9.0/32"]},  # another network's
        {"addresses": ["10.5.9.0/32", "192.0.2.1/24"]},  # somebody uses it
        {"addresses": []},
        {"name": "flannel.9"},
        {"name": "overlay1"},
    ],
)
def test_a_device_that_may_be_somebody_elses_stays(host: Host, other: dict[str, t.Any]) -> None:
    """Bad luck: a flanneld of another network, or anybody's device, is on the same host."""
    vtep(host, 1, **{**other, "sole": False})
    before = devices(host)
    vtep(host, 2)
    assert devices(host) == sorted([*before, "flannel.2"])


def test_site_leaves_no_device_of_the_vni_before(
    lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> None:
    """Bad luck: the same, with a fleet, while flatnet-sync keeps it."""
    site = Site(lab_factory(hosts=2), ansible, sync="service")
    site.play()
    site.add_pods()
    backend = {"type": "vxlan", "vni": 2}
    site.play(flatnet_backend=backend, flatnet_network_force=True)
    for each in site.hosts:
        assert devices(each) == ["flannel.2"]
    assert site.lost() == []
    assert site.play(flatnet_backend=backend).changed() == set()
