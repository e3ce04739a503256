# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The udp backend on hosts that site.yml made, kept by flatnet-sync: joins, drift, a reboot."""

from __future__ import annotations

import json
import signal
import subprocess
import typing as t

import pytest

from tests.integration.playbooks import SUBNETS, Ansible, Site
from tests.lab import Host, Lab
from tests.lab.waiting import wait

SYNC, RELAY = "/etc/flatnet/sbin/flatnet-sync", "/etc/flatnet/sbin/flatnet-relay"
TABLE = "/etc/flatnet/relay-table.json"
# What there is of the overlay, apart from pods and from how often a queue was attached.
DUMP = """
ip -4 -o addr show | cut -d: -f2-; ip -4 route show table all
ip -d -o link show dev flannel0 | grep -o ' mtu .*tun .*'
cat /run/flannel/subnet.env /etc/flatnet/relay.json; sysctl net.ipv4.ip_forward
"""
BACKEND = {"type": "udp"}


@pytest.fixture(scope="module")
def site(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    site = Site(lab_factory(hosts=3), ansible)
    # Their own subnets are from 10.5.200.0 on, those of others below.
    for number, host in enumerate(site.hosts):
        lease = {"PublicIP": host.address, "PublicIPv6": None}
        site.lab.etcd.put(f"{SUBNETS}10.5.{200 + number}.0-24", json.dumps(lease))
    site.play(flatnet_backend=BACKEND, flatnet_sync="service", flatnet_sync_interval=1)
    site.add_pods()
    assert site.lost() == []
    return site


def sync_status(host: Host) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads(host.exec([SYNC, "status", "--json"], check=True).stdout)
    return found


def relay_status(host: Host) -> dict[str, t.Any]:
    done = host.exec([RELAY, "status", "--json"])
    found: dict[str, t.Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def in_use(host: Host) -> int:
    """How many peers the running relay has."""
    return int(relay_status(host).get("table", {}).get("peers", -1))


def dump(host: Host) -> list[str]:
    return sorted(host.exec(["sh", "-c", DUMP], check=True).stdout.splitlines())


def table(host: Host) -> str:
    return host.exec(["cat", TABLE], check=True).stdout


def answered(site: Site) -> bool:
    return site.lost() == []


def test_joins_and_leaves_reach_the_running_relay(site: Site) -> None:
    host = site.hosts[0]
    etcd, began = site.lab.etcd, relay_status(host)["started"]
    for number in range(100, 150):
        lease = {"PublicIP": f"172.21.9.{number}", "PublicIPv6": None}
        etcd.put(f"{SUBNETS}10.5.{number}.0-24", json.dumps(lease))
    etcd.put(f"{SUBNETS}10.5.99.0-24", "{garbage")
    wait(lambda: in_use(host) == 52, "all that joined")
    assert '["10.5.149.0/24","172.21.9.149",0]' in table(host)
    # What was a lease and is none any more keeps its peer: nobody knows what was meant.
    etcd.put(f"{SUBNETS}10.5.149.0-24", "{garbage")
    etcd.delete(f"{SUBNETS}10.5.148.0-24")
    wait(lambda: in_use(host) == 51, "the one that left")
    assert "10.5.149.0/24" in table(host)
    for number in [99, *range(100, 150)]:
        etcd.delete(f"{SUBNETS}10.5.{number}.0-24")
    wait(lambda: in_use(host) == 2, "none of them")
    assert relay_status(host)["started"] == began
    assert site.lost() == []


@pytest.mark.parametrize(
    "damage",
    [
        ["ip", "link", "del", "flannel0"],
        ["ip", "route", "del", "10.5.0.0/16", "dev", "flannel0"],
        ["ip", "link", "set", "flannel0", "down"],
        ["ip", "link", "set", "flannel0", "mtu", "1300"],
        ["ip", "addr", "flush", "dev", "flannel0"],
        ["rm", TABLE],
        ["sh", "-c", f"echo '{{' > {TABLE}"],
        ["sh", "-c", f"echo '{{\"peers\":[]}}' > {TABLE}; {RELAY} reload"],
    ],
    ids=" ".join,
)
def test_drift_is_repaired_and_told(site: Site, damage: list[str]) -> None:
    host = site.hosts[1]
    before, wanted = dump(host), table(host)
    repaired = sync_status(host)["repaired"]
    host.exec(damage, check=True)
    wait(lambda: host.exec(["cat", TABLE]).stdout == wanted and dump(host) == before)
    wait(lambda: answered(site), "the pods again")
    # A damaged table is not known to differ in any peer.
    if damage[0] == "ip" or "[]" in damage[-1]:
        wait(lambda: sync_status(host)["repaired"] > repaired, "the status")


def test_a_killed_relay_is_back_and_the_device_stays(site: Site) -> None:
    host = site.hosts[1]
    before, status = dump(host), relay_status(host)
    host.exec(["kill", "-9", str(status["pid"])], check=True)
    wait(lambda: relay_status(host).get("pid", status["pid"]) != status["pid"], "the relay")
    assert dump(host) == before
    assert site.lost() == []


def test_after_a_reboot_without_etcd_all_is_as_before(site: Site) -> None:
    host = site.hosts[2]
    wait(lambda: len(sync_status(host)["errors"]) == 0)
    host.exec([SYNC, "once"], check=True)
    before, wanted = dump(host), table(host)
    site.lab.etcd.stop()
    try:
        for pod in [pod for pod in site.lab.pods if pod.host == host.name]:
            site.lab.remove_pod(pod)
        site.lab.reboot(host)
        assert "flannel0" not in host.exec(["ip", "link"], check=True).stdout
        done = host.exec([SYNC, "restore"])
        assert done.returncode == 0, done.stderr
        # What systemd would start next.
        relay = subprocess.Popen(host.command([RELAY, "run"]), stderr=subprocess.PIPE, text=True)
        try:
            wait(lambda: in_use(host) == 2, "the relay")
            gateway = site.subnet_env(host)["FLANNEL_SUBNET"].partition("/")[0]
            site.lab.add_pod(host, gateway[:-1] + "2/24", gateway)
            assert dump(host) == before
            assert table(host) == wanted
            assert site.lost() == []
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.communicate(timeout=10)
    finally:
        site.lab.etcd.start()
