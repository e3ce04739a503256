# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml where something is special: interrupted runs, several links, other ways to start it."""

from __future__ import annotations

import signal
import typing as t
import venv
from pathlib import Path

import pytest

from tests.integration.interrupted import DEVICE_TASKS, tasks
from tests.integration.playbooks import Ansible, Site
from tests.lab import Lab

KILLED = -signal.SIGKILL


@pytest.mark.parametrize("backend", DEVICE_TASKS)
def test_a_run_that_is_killed_at_any_task_is_made_up_for(
    lab_factory: t.Callable[..., Lab], ansible: Ansible, backend: str
) -> None:
    site = Site(lab_factory(hosts=3), ansible)
    wanted = {"type": backend}
    for task in tasks(backend):
        killed = site.play(code=KILLED, env={"RECORD_KILL": task}, flatnet_backend=wanted)
        assert killed.records[-1]["task"].endswith(task)
        site.wait_until_idle()
    site.play(flatnet_backend=wanted)
    site.add_pods()
    assert site.lost() == []


@pytest.fixture(scope="module")
def routed(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    """host1 and host2 share a link, host3 is behind a router."""
    return Site(lab_factory(hosts=3, segments=2), ansible)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"flatnet_backend": '{"type": "udp"}'}, "it must be a mapping"),
        ({"flatnet_backend": "udp"}, "flatnet_backend"),
        ({"flatnet_subnet_len": "x"}, "flatnet_subnet_len"),
        ({"flatnet_network": "10.5.0.0"}, "is not an IPv4 network"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_changes(
    routed: Site, variables: dict[str, t.Any], message: str
) -> None:
    run = routed.play(code=2, **variables)
    assert message in " ".join(run.output.split())
    assert run.changed() == set()
    assert routed.lab.etcd.get_prefix("/") == {}


def test_an_interpreter_without_pyroute2_is_named(routed: Site, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = str(tmp_path / "venv/bin/python")
    run = routed.play(code=2, ansible_python_interpreter=python)
    message = run.failures()["host2"]
    assert f"{python}, cannot import pyroute2" in message
    assert f"{python} -m pip install pyroute2" in message


def test_host_gw_across_a_router_is_refused_and_names_the_host(routed: Site) -> None:
    def routes() -> dict[str, str]:
        return {
            host.name: host.exec(["ip", "route", "show", "proto", "110"]).stdout
            for host in routed.hosts
        }

    run = routed.play(code=2, flatnet_backend={"type": "host-gw"})
    messages = run.failures()
    assert "not on it: host3 (172.22.0.13) (it is reached through 172.21.0.1)" in messages["host1"]
    assert "host1 (172.21.0.11) (it is reached through 172.22.0.1)" in messages["host3"]
    assert routes() == {"host1": "", "host2": "", "host3": ""}


def test_vxlan_crosses_a_router(routed: Site) -> None:
    routed.play(flatnet_backend={"type": "vxlan"})
    routed.add_pods()
    assert routed.lost(mtu=1450) == []


def test_direct_routing_spares_the_link_the_encapsulation(routed: Site) -> None:
    backend = {"type": "vxlan", "direct_routing": True}
    routed.play(flatnet_backend=backend)
    assert routed.lost(mtu=1450) == []
    first, second, third = (routed.leases()[host.address]["subnet"] for host in routed.hosts)
    shown = {
        host.name: host.exec(["ip", "route", "show", "proto", "110"], check=True).stdout
        for host in routed.hosts
    }
    assert f"{second} via 172.21.0.12 dev eth0" in shown["host1"]
    assert f"{third} via {third.split('/')[0]} dev flannel.1 onlink" in shown["host1"]
    assert f"{first} via {first.split('/')[0]} dev flannel.1 onlink" in shown["host3"]


def test_an_installed_collection_runs_by_name(
    lab_factory: t.Callable[..., Lab], ansible: Ansible, tmp_path: Path
) -> None:
    # Without the working tree's, which counts as an installed collection.
    config, installed = tmp_path / "ansible.cfg", tmp_path / "collections"
    config.touch()
    env = {"ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_CONFIG": str(config)}

    def galaxy(*arguments: str) -> None:
        done = ansible("ansible-galaxy", "collection", *arguments, **env)
        assert done.returncode == 0, done.stdout + done.stderr

    galaxy("build", "--output-path", str(tmp_path))
    (artifact,) = tmp_path.glob("flatnet-overlay-*.tar.gz")
    galaxy("install", str(artifact), "-p", str(installed))
    site = Site(lab_factory(hosts=2), ansible)
    run = site.play("flatnet.overlay.site", env=env)
    assert "2 hosts reached all their peers" in run.output
    site.play("flatnet.overlay.verify", env=env)


NFTABLES = """\
#!/usr/sbin/nft -f

flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		ct state established,related accept
		reject
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
	}
	chain output {
		type filter hook output priority filter;
	}
}
"""


def test_a_firewall_is_opened_and_stays_open(
    lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> None:
    site = Site(lab_factory(hosts=2), ansible)
    for host in site.hosts:
        (host.etc / "nftables.conf").write_text(NFTABLES)
    load(site)
    closed = ruleset(site)
    site.play()
    site.add_pods()
    assert site.lost() == []
    opened = ruleset(site)
    assert "udp dport 8472 accept" in opened[0]

    module = "host_firewall"
    vxlan = {
        "network": "10.5.0.0/16",
        "port": 8472,
        "interface": "eth0",
        "device": "flannel.1",
    }
    assert "CHANGED" not in site.module(module, vxlan)
    load(site)
    assert "CHANGED" not in site.module(module, vxlan)
    assert sorted(opened[0].splitlines()) == sorted(ruleset(site)[0].splitlines())

    host_gw = {"network": "10.5.0.0/16"}
    assert "udp dport 8472" in site.module(module, host_gw, "--check", "--diff")
    assert "udp dport 8472" in ruleset(site)[0]
    assert "CHANGED" in site.module(module, host_gw)
    assert "udp dport 8472" not in ruleset(site)[0]
    assert "CHANGED" in site.module(module, {**host_gw, "state": "absent"})
    assert ruleset(site) == closed
    for host in site.hosts:
        assert (host.etc / "nftables.conf").read_text() == NFTABLES

    site.play(flatnet_backend={"type": "host-gw"})
    assert site.lost() == []


def ruleset(site: Site) -> list[str]:
    return [host.exec(["nft", "list", "ruleset"], check=True).stdout for host in site.hosts]


def load(site: Site) -> None:
    """As at boot, and whenever the service is reloaded."""
    for host in site.hosts:
        host.exec(["nft", "-f", "/etc/nftables.conf"], check=True)
