# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml, verify.yml and remove.yml on a fleet whose hosts share one link.

The tests of one backend share a fleet: the first one builds it, the last one takes it apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.integration.playbooks import GUARDS, PREFIX, SUBNETS, Ansible, Run, Site
from tests.lab import Host, Lab

PEERS = "flatnet.overlay.peers : Reach every other host"
FLANNELD_MAC = "5a:00:00:00:00:77"
UNREACHABLE = 4
MTU = {"vxlan": 1450, "host-gw": 1500, "udp": 1472}
# Knows nothing of the relay.
FLANNELD = Path(__file__).resolve().parents[2] / "relay" / "flannel_peer.py"

KEPT_FILES = [
    "etc/sysctl.d/90-flatnet.conf",
    "etc/iproute2/rt_protos.d/flatnet.conf",
    "run/flannel/subnet.env",
]


@dataclass(frozen=True)
class Built:
    """A fleet, and how it came to be."""

    site: Site
    backend: str
    before: dict[str, str]
    checked: Run
    after_check: dict[str, str]
    leases_after_check: list[str]
    ran: Run

    def play(self, playbook: str = "playbooks/site.yml", *arguments: str, **more: t.Any) -> Run:
        return self.site.play(playbook, *arguments, flatnet_backend={"type": self.backend}, **more)


@pytest.fixture(scope="module", params=["vxlan", "host-gw", "udp"])
def built(
    request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> Built:
    """host1 to host3 are managed; host2 ran a flanneld before, and host4 does so later."""
    lab = lab_factory(hosts=4)
    site = Site(lab, ansible, lab.hosts[:3])
    lab.etcd.put(f"{SUBNETS}10.5.77.0-24", flannel_lease(lab.hosts[1], request.param))
    before = site.kernel()
    variables = {"flatnet_backend": {"type": request.param}}
    checked = site.play("playbooks/site.yml", "--check", "--diff", **variables)
    after_check = site.kernel()
    leases_after_check = list(lab.etcd.get_prefix(PREFIX))
    ran = site.play("playbooks/site.yml", "--diff", **variables)
    site.add_pods()
    return Built(site, request.param, before, checked, after_check, leases_after_check, ran)


def flannel_lease(host: Host, backend: str) -> str:
    """A lease as a flanneld writes it."""
    lease: dict[str, t.Any] = {"PublicIP": host.address, "PublicIPv6": None}
    if backend != "udp":
        lease["BackendType"] = backend
    if backend == "vxlan":
        lease["BackendData"] = {"VNI": 1, "VtepMAC": FLANNELD_MAC}
    return json.dumps(lease, separators=(",", ":"))


# What does not depend on the backend.
once = pytest.mark.parametrize("built", ["vxlan"], indirect=True)


# --- the first run ------------------------------------------------------------------------------


@pytest.mark.matrix
def test_all_pods_answer(built: Built) -> None:
    assert built.site.lost() == []
    assert built.site.lost(mtu=MTU[built.backend]) == []


@pytest.mark.matrix
def test_the_second_run_changes_nothing(built: Built) -> None:
    kernel = built.site.kernel()
    again = built.play()
    assert again.changed() == set()
    assert "3 hosts reached all their peers, 6 in all" in again.output
    assert built.site.kernel() == kernel
    # Few tasks, whatever the number of peers: skipped ones cost nothing on a host.
    tasks = [each["task"] for each in again.records if each["host"] == "host2"]
    done = [each for each in again.records if each["host"] == "host2" and not each.get("skipped")]
    assert len(done) <= 10, tasks


def test_check_predicts_exactly_what_the_run_changes(built: Built) -> None:
    def told(run: Run) -> dict[tuple[str, str], t.Any]:
        return {
            (each["host"], each["task"]): (each["changed"], each["diff"], each.get("skipped"))
            for each in run.records
            if "overlay.verify" not in each["task"]
        }

    predicted, happened = told(built.checked), told(built.ran)
    assert predicted == happened
    assert built.checked.changed()
    assert PEERS in {task for _host, task in built.checked.changed()}


def test_check_changes_nothing(built: Built) -> None:
    assert built.after_check == built.before
    assert built.leases_after_check == [f"{SUBNETS}10.5.77.0-24"]
    assert "Check mode builds nothing that could be pinged" in built.checked.output


def test_the_subnet_of_a_flanneld_is_adopted(built: Built) -> None:
    host = built.site.hosts[1]
    assert built.site.leases()[host.address]["subnet"] == "10.5.77.0/24"
    assert built.site.subnet_env(host)["FLANNEL_SUBNET"] == "10.5.77.1/24"


def test_subnet_env_is_as_flannel_writes_it(built: Built) -> None:
    for host in built.site.hosts:
        subnet = built.site.leases()[host.address]["subnet"].replace(".0/", ".1/")
        assert (host.run / "flannel/subnet.env").read_text() == (
            f"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\n"
            f"FLANNEL_MTU={MTU[built.backend]}\nFLANNEL_IPMASQ=false\n"
        )


@once
def test_forwarding_is_kept_for_the_next_boot(built: Built) -> None:
    for host in built.site.hosts:
        assert "net.ipv4.ip_forward = 1\n" in (host.etc / "sysctl.d/90-flatnet.conf").read_text()
        assert host.exec(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "1\n"


# --- what else is in etcd -----------------------------------------------------------------------


def test_a_lease_by_hand_is_a_peer_and_garbage_is_not(built: Built) -> None:
    site, (_, _, _, other) = built.site, built.site.lab.hosts
    etcd, kernel = site.lab.etcd, site.kernel()
    subnet, garbage = (each.replace("/", "-") for each in site.unheld(2))
    zero = subnet.partition("-")[0]
    stop = run_as_flanneld(site, other, built.backend, zero)
    put = {
        subnet: flannel_lease(other, built.backend),
        garbage: "{not JSON",
        "nonsense": "{}",
        "10.6.0.0-24": flannel_lease(other, built.backend),
    }
    for name, value in put.items():
        etcd.put(SUBNETS + name, value)
    # The last step pings it. Ansible's own warnings count, too.
    run = built.play("playbooks/site.yml", "--diff", env={"ANSIBLE_DEPRECATION_WARNINGS": "1"})
    assert run.changed() == {(host.name, PEERS) for host in site.hosts}
    shown = run.shown(PEERS)
    for host in site.hosts:
        assert f"\nchanged: [{host.name}]" in shown
        assert run.recap()[host.name]["changed"] == 1
    assert shown.count(zero) >= len(site.hosts), "the diff is not shown"
    assert "reserved" not in run.output
    assert "skipped` from a module" not in run.output
    assert "9 in all" in run.output
    assert all(name in run.warnings() for name in (garbage, "nonsense", "10.6.0.0"))
    stop()
    for name in put:
        etcd.delete(SUBNETS + name)
    assert built.play().changed() == {(host.name, PEERS) for host in site.hosts}
    assert {**site.kernel(), other.name: kernel[other.name]} == kernel


def run_as_flanneld(site: Site, host: Host, backend: str, zero: str) -> t.Callable[[], None]:
    """Make a host what a flanneld would make it whose /24 begins at ``zero``; returns what ends
    it."""
    lines = []
    if backend == "vxlan":
        lines = [
            f"link add flannel.1 address {FLANNELD_MAC} mtu 1450 type vxlan id 1 "
            f"local {host.address} dev eth0 dstport 8472 nolearning",
            f"addr add {zero}/32 dev flannel.1",
            "link set flannel.1 up",
        ]
    else:
        address = f"{IPv4Address(zero) + 1}/24"
        lines = ["link add cni0 type bridge", f"addr add {address} dev cni0", "link set cni0 up"]
    if backend == "udp":
        lines += [
            "tuntap add dev flannel0 mode tun",
            "link set flannel0 mtu 1472 up",
            f"addr add {zero}/32 dev flannel0",
            "route add 10.5.0.0/16 dev flannel0",
        ]
    for address, lease in site.leases().items():
        subnet = lease["subnet"]
        hop = subnet.split("/")[0]
        if backend == "host-gw":
            lines.append(f"route add {subnet} via {address} dev eth0")
        if backend != "vxlan":
            continue
        mac = lease["BackendData"]["VtepMAC"]
        lines.append(f"neigh add {hop} lladdr {mac} dev flannel.1 nud permanent")
        lines.append(f"route add {subnet} via {hop} dev flannel.1 onlink")
    host.exec(["ip", "-batch", "-"], check=True, stdin="\n".join(lines) + "\n")
    if backend == "udp":
        table = [f"{lease['subnet']}={address}" for address, lease in site.leases().items()]
        command = [sys.executable, str(FLANNELD), "flannel0", host.address, "8285", *table]
        process = subprocess.Popen(host.command(command), stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"

        def stop() -> None:
            process.kill()
            process.communicate()

        return stop
    if backend == "vxlan":
        entries = "".join(
            f"fdb add {lease['BackendData']['VtepMAC']} dev flannel.1 dst {address} self\n"
            for address, lease in site.leases().items()
        )
        host.exec(["bridge", "-batch", "-"], check=True, stdin=entries)
    return lambda: None


# --- etcd is gone, or empty ---------------------------------------------------------------------


@once
def test_without_etcd_all_stays_and_one_sentence_says_so(built: Built) -> None:
    site, kernel = built.site, built.site.kernel()
    site.lab.etcd.stop()
    try:
        run = built.play(code=2)
        assert site.lost() == []
        assert site.kernel() == kernel
    finally:
        site.lab.etcd.start()
    assert run.changed() == set()
    (message,) = run.failures().values()
    assert site.lab.etcd.endpoint(1) in message
    assert "\n" not in message
    assert "Traceback" not in run.output


@once
def test_from_an_emptied_etcd_nothing_is_torn_down(built: Built) -> None:
    site, kernel, leases = built.site, built.site.kernel(), built.site.leases()
    config = site.lab.etcd.get(f"{PREFIX}/config")
    site.lab.etcd.delete(PREFIX, prefix=True)
    endpoints = {"etcd_endpoints": site.lab.etcd.endpoints}
    assert "no network config" in site.module("flannel_peers", endpoints, code=2)
    site.lab.etcd.put(f"{PREFIX}/config", str(config))
    assert "etcd names no lease of this host" in site.module("flannel_peers", endpoints, code=2)
    assert site.kernel() == kernel
    # Hosts remember their subnets, so the fleet is as before.
    built.play()
    assert {ip: lease["subnet"] for ip, lease in site.leases().items()} == {
        ip: lease["subnet"] for ip, lease in leases.items()
    }
    assert site.kernel() == kernel
    assert site.lost() == []


# --- verify and remove --------------------------------------------------------------------------


@once
def test_verify_lists_what_does_not_answer(built: Built) -> None:
    site, (_, broken, _, _) = built.site, built.site.lab.hosts
    subnet = site.leases()[site.hosts[2].address]["subnet"]
    route = broken.exec(["ip", "route", "show", subnet], check=True).stdout.split()
    broken.exec(["ip", "route", "replace", "unreachable", subnet], check=True)
    run = built.play("playbooks/verify.yml", code=2)
    broken.exec(["ip", "route", "del", subnet], check=True)
    broken.exec(["ip", "route", "add", *route], check=True)
    # Lines of their own, not a list in JSON: from to address bytes answer
    rows = [line.split() for line in run.output.splitlines() if line.endswith("no answer")]
    assert [tuple(row[:2]) for row in rows] == [("host2", "host3"), ("host3", "host2")]
    assert "2 peers did not answer; the lines above name them" in run.output
    assert run.changed() == set()
    assert "reached all their peers" in built.play("playbooks/verify.yml").output


@once
def test_verify_finds_a_path_that_is_too_small(built: Built) -> None:
    site = built.site
    host = site.hosts[2]
    host.exec(["ip", "link", "set", "eth0", "mtu", "1400"], check=True)
    run = built.play("playbooks/verify.yml", code=2)
    host.exec(["ip", "link", "set", "eth0", "mtu", "1500"], check=True)
    rows = [line.split() for line in run.output.splitlines() if line.endswith("no answer")]
    assert ["host1", "host3"] in [row[:2] for row in rows]
    assert {row[3] for row in rows} == {str(MTU[built.backend])}


@once
def test_a_host_that_does_not_answer_stops_no_other(built: Built) -> None:
    names = {host.name: host.netns for host in built.site.hosts} | {"host1": "nowhere"}
    name = "{{ " + json.dumps(names) + "[inventory_hostname] }}"
    run = built.play(code=UNREACHABLE, ansible_netns_name=name)
    done = {each["host"] for each in run.records if each["task"] == PEERS}
    assert done == {"host2", "host3"}
    (line,) = [line for line in run.output.splitlines() if line.startswith("host1 cannot be")]
    assert "host1 cannot be reached: " in line
    assert "namespace" in line
    assert run.changed() == set()


@once
def test_a_host_that_failed_before_is_told_with_that_error(built: Built) -> None:
    site, (_, broken, _, _) = built.site, built.site.lab.hosts
    subnet = site.leases()[broken.address]["subnet"]
    lines = ["link set cni0 name other0", "link add cni0 type veth peer name cni1"]
    broken.exec(["ip", "-batch", "-"], check=True, stdin="\n".join(lines) + "\n")
    broken.exec(["ip", "address", "flush", "dev", "other0"], check=True)
    run = built.play(code=2)
    lines = ["link del cni0", "link set other0 name cni0"]
    broken.exec(["ip", "-batch", "-"], check=True, stdin="\n".join(lines) + "\n")
    gateway = subnet.replace(".0/", ".1/")
    broken.exec(["ip", "address", "add", gateway, "brd", "+", "dev", "cni0"], check=True)
    (line,) = [line for line in run.output.splitlines() if line.startswith("host2 failed")]
    message = run.failures()["host2"]
    assert line.startswith(f"host2 failed in the role bridge: {message}")
    # The pings to it are no news, and are counted there.
    assert line.endswith("(so 2 pings to it got no answer)")
    assert not [line for line in run.output.splitlines() if line.endswith("no answer")]
    assert "1 hosts failed before; the lines above name them" in run.output
    built.play()


def reached(built: Built, host: Host) -> str:
    """What names the peers that a host reaches."""
    if built.backend != "udp":
        return built.site.kernel()[host.name]
    tables = ["ip route", "cat /etc/flatnet/relay-table.json"]
    return "".join(host.exec(each.split(), check=True).stdout for each in tables)


def test_remove_leaves_nothing(built: Built) -> None:
    site = built.site
    for pod in list(site.lab.pods):
        site.lab.remove_pod(pod)
    first, second, third, _ = site.lab.hosts
    run = built.play("playbooks/remove.yml", flatnet_remove="host3")
    assert site.kernel()[third.name] == built.before[third.name]
    assert set(site.leases()) == {first.address, second.address}
    subnets = [lease["subnet"] for lease in site.leases().values()]
    gone = {(host.name, PEERS) for host in (first, second)}
    assert {change for change in run.changed() if change[0] != "host3"} == gone
    assert all(subnet in reached(built, first) for subnet in subnets)

    built.play("playbooks/remove.yml", flatnet_remove="host1,host2")
    hosts = [host.name for host in site.hosts]
    assert {name: site.kernel()[name] for name in hosts} == {
        name: built.before[name] for name in hosts
    }
    assert site.lab.etcd.get_prefix(SUBNETS) == {}
    assert site.lab.etcd.get_prefix(GUARDS) == {}
    for host in site.hosts:
        assert [path for path in KEPT_FILES if (host.directory / path).exists()] == []
