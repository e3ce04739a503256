# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on who holds which subnet: by who can write leases, by a changed variable, by bad luck.

Pods ping all the while, and none of their packets may be lost.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.identity import (
    host_id,
)

from tests.integration.interrupted import DEVICE_TASKS, tasks
from tests.integration.playbooks import PREFIX, SUBNETS, Ansible, Run, Site
from tests.lab import Host, Lab
from tests.lab.waiting import wait

KILLED = -signal.SIGKILL
LEASE = "flatnet.overlay.lease : Lease a subnet"
BRIDGE = "flatnet.overlay.bridge : Make the container bridge"
STRANGER = "4a:be:f1:a6:ee:c3"


@pytest.fixture(scope="module")
def fleet(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    """Two hosts that hold leases, with a pod each; host3 is not part of it yet."""
    lab = lab_factory(hosts=3)
    site = Site(lab, ansible, lab.hosts[:2])
    site.play()
    site.add_pods()
    assert site.lost() == []
    return site


@contextlib.contextmanager
def pinging(site: Site) -> t.Iterator[None]:
    """The pods ping each other until the end, and every packet is answered."""
    pods = site.lab.pods
    pairs = [(one, other) for one in pods for other in pods if one is not other]
    assert pairs
    running = [
        subprocess.Popen(
            one.command(["ping", "-n", "-q", "-i", "0.2", str(other.address)]),
            stdout=subprocess.PIPE,
            text=True,
        )
        for one, other in pairs
    ]
    try:
        yield
    finally:
        for each in running:
            each.send_signal(signal.SIGINT)
        reports = [each.communicate(timeout=30)[0] for each in running]
    for (one, other), report in zip(pairs, reports):
        words = report[report.index("packets transmitted") - 10 :].split()
        numbers = [int(word) for word in words if word.isdigit()]
        # The last one may still be on its way.
        assert numbers[0] > 1, report
        assert numbers[1] >= numbers[0] - 1, f"{one.netns} to {other.netns}: {report}"


def subnets(site: Site) -> dict[str, str]:
    """By host id, the subnets of leases that record one."""
    return {
        value["Flatnet"]["HostID"]: key[len(SUBNETS) :].replace("-", "/")
        for key, value in (
            (key, json.loads(text))
            for key, text in site.lab.etcd.get_prefix(SUBNETS).items()
            if text.startswith('{"PublicIP"')
        )
        if "Flatnet" in value
    }


def subnet(site: Site, host: Host) -> str:
    return site.leases()[host.address]["subnet"]


def addresses(host: Host) -> list[str]:
    """The IPv4 addresses of the bridge."""
    shown = json.loads(host.exec(["ip", "-4", "-j", "addr", "show", "cni0"], check=True).stdout)
    return [f"{each['local']}/{each['prefixlen']}" for link in shown for each in link["addr_info"]]


def gateway(of: str) -> str:
    return of.replace(".0/", ".1/")


def etcd(site: Site) -> dict[str, str]:
    return site.lab.etcd.get_prefix(PREFIX)


def lease(public_ip: str, **flatnet: str) -> str:
    value: dict[str, t.Any] = {
        "PublicIP": public_ip,
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": STRANGER},
    }
    return json.dumps({**value, "Flatnet": flatnet} if flatnet else value)


def inside(of: str, last: int, length: int) -> str:
    return "%s.%d-%d" % (of.rpartition(".")[0], last, length)


# --- keys that somebody writes ------------------------------------------------------------------


def planted(site: Site, host: Host, others: list[str]) -> dict[str, str]:
    """Keys of every kind that overlap a host's subnet, or record its identity or address. The last
    three are of three ``others``."""
    own, machine = subnet(site, host), host_id(host.machine_id)
    clone, double, third = (each.replace("/", "-") for each in others)
    return {
        inside(own, 7, 32): "x",
        inside(own, 0, 25): "{",
        "10.5.0.0-16": "x",
        "10.4.0.0-15": lease("192.0.2.66"),
        inside(own, 128, 25): lease("192.0.2.67"),
        inside(own, 64, 26): lease(host.address),
        own.replace("/", "-") + "&fd00:10:0:45::-64": lease("192.0.2.68"),
        own.replace("/", "-") + "&fd00:10:0:46::-64": "[]",
        # Before the host's own in the order of keys.
        "10.5.0.0-24": lease(host.address, HostID=machine, Hostname=host.name),
        clone: lease("192.0.2.69", HostID=machine, Hostname="clone"),
        double: lease(host.address, HostID="f" * 32, Hostname="double"),
        third: lease(host.address),
    }


def play(site: Site, *arguments: str) -> Run:
    """Without the last step: some of the leases planted would be of peers, which do not answer."""
    return site.play("playbooks/site.yml", "--skip-tags", "verify", *arguments)


def test_no_key_moves_or_hinders_a_host_that_holds_a_lease(fleet: Site) -> None:
    """Who can write leases plants garbage and leases over a host's subnet, in its name and with its
    address: the host keeps its lease, its pods their network, and a run has nothing to complain of
    but what was planted."""
    first, second = fleet.hosts
    held = [subnet(fleet, host) for host in fleet.hosts]
    others = fleet.unheld(3)
    keys = planted(fleet, second, others)
    written = fleet.lab.etcd.get(SUBNETS + held[1].replace("/", "-"))
    with pinging(fleet):
        try:
            for name, value in keys.items():
                fleet.lab.etcd.put(SUBNETS + name, value)
            checked = play(fleet, "--check")
            run = play(fleet)
            again = play(fleet)
            left = fleet.lab.etcd.get_prefix(SUBNETS)
        finally:
            for name in keys:
                fleet.lab.etcd.delete(SUBNETS + name)
    assert fleet.lab.etcd.get(SUBNETS + held[1].replace("/", "-")) == written
    assert [addresses(host) for host in fleet.hosts] == [[gateway(each)] for each in held]
    # What was forged in the host's own name is gone, whatever else was planted is not ours.
    assert set(keys) - {name[len(SUBNETS) :] for name in left} == {"10.5.0.0-24"}
    assert (second.name, LEASE) in checked.changed() & run.changed()
    assert again.changed() == set()
    for words in (others[0] + " of clone", others[1] + " of double", "keeps its subnet"):
        assert words in again.warnings()
    assert fleet.play().changed() <= {
        (host.name, "flatnet.overlay.peers : Reach every other host") for host in (first, second)
    }
    assert fleet.lost() == []


def test_a_newcomer_keeps_off_what_is_planted(fleet: Site, ansible: Ansible) -> None:
    """Who can write leases plants them before a host comes: it gets a subnet that nothing overlaps,
    inside the network, and the others keep theirs."""
    lab, third = fleet.lab, fleet.lab.hosts[2]
    keys = {
        "10.5.0.0-17": "x",
        "10.5.192.0-18": lease("192.0.2.70"),
        # A flanneld's of this host, which nobody could use.
        "10.6.0.0-24": lease(third.address),
        "10.5.8.0-30": lease(third.address),
    }
    for name, value in keys.items():
        lab.etcd.put(SUBNETS + name, value)
    whole = Site(lab, ansible)
    try:
        with pinging(fleet):
            play(whole)
        got = subnets(fleet)[host_id(third.machine_id)]
        assert 128 <= int(got.split(".")[2]) < 192
        # The host's own, which it does not hold any more.
        assert lab.etcd.get(SUBNETS + "10.5.8.0-30") is None or (
            lab.etcd.get(SUBNETS + "10.6.0.0-24") is None
        )
    finally:
        for name in keys:
            lab.etcd.delete(SUBNETS + name)


def test_a_host_whose_lease_was_overwritten_is_not_moved(fleet: Site) -> None:
    """Who can write leases puts garbage in the place of a host's own lease. The host does not lease
    another subnet under its pods: the run says what is the matter, and all stays."""
    _, second = fleet.hosts
    held = subnet(fleet, second)
    name = SUBNETS + held.replace("/", "-")
    written = str(fleet.lab.etcd.get(name))
    with pinging(fleet):
        fleet.lab.etcd.put(name, "x")
        try:
            for arguments in (["--check"], []):
                run = fleet.play("playbooks/site.yml", "--limit", second.name, *arguments, code=2)
                message = run.failures()[second.name]
                assert gateway(held) in message
                assert "flatnet_move" in message
                assert run.changed() == set()
        finally:
            fleet.lab.etcd.put(name, written)
    assert fleet.play().changed() == set()


# --- moving a host ------------------------------------------------------------------------------


def told(run: Run, *tasks: str) -> dict[tuple[str, str], t.Any]:
    return {
        (each["host"], each["task"]): (each["changed"], each["diff"])
        for each in run.records
        if each["task"] in tasks
    }


def without_pods(site: Site) -> None:
    for pod in list(site.lab.pods):
        site.lab.remove_pod(pod)


@pytest.fixture(scope="module", params=["vxlan", "udp"])
def movable(
    request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> t.Callable[..., Run]:
    """Plays site.yml on a fleet of its own."""
    site = Site(lab_factory(hosts=3), ansible)

    def play(*arguments: str, **more: t.Any) -> Run:
        return site.play(
            "playbooks/site.yml", *arguments, flatnet_backend={"type": request.param}, **more
        )

    play()
    play.site = site  # type: ignore[attr-defined]
    return play


def test_another_length_of_subnets_moves_nobody_who_is_not_to_move(movable: t.Any) -> None:
    """Somebody sets flatnet_subnet_len on a healthy fleet: refused before anything is written;
    forced, hosts keep their subnets; asked to move, they say that pods are in the way; without pods
    they move, and back."""
    site: Site = movable.site
    site.add_pods()
    shorter: dict[str, t.Any] = {"flatnet_subnet_len": 26}
    before, kernel = etcd(site), site.kernel()
    leases = subnets(site)
    with pinging(site):
        for more in ({}, {"flatnet_move": True}):
            run = movable(code=2, **shorter, **more)
            (message,) = run.failures().values()
            for words in ("subnet_len", "/26", "there are 3", "host1", "flatnet_network_force"):
                assert words in message
            assert "flatnet_move" in message
            assert run.changed() == set()
        assert (etcd(site), site.kernel()) == (before, kernel)

        shorter["flatnet_network_force"] = True
        run = movable(**shorter)
        assert LEASE not in {task for _host, task in run.changed()}
        assert subnets(site) == leases
        assert site.kernel() == kernel
        assert "keeps its subnet" in run.warnings()

        moving = {**shorter, "flatnet_move": True}
        before = etcd(site)
        for arguments in (["--check"], []):
            run = movable(*arguments, code=2, **moving)
            assert len(run.failures()) == 3
            for host in site.hosts:
                message = run.failures()[host.name]
                assert "containers on its ports pod" in message
                assert subnet(site, host).rpartition(".")[0] in message
        assert (etcd(site), site.kernel()) == (before, kernel)
    assert site.lost() == []

    without_pods(site)
    check_move(movable, moving)
    assert {each.rpartition("/")[2] for each in subnets(site).values()} == {"26"}
    # The way back, by the variables that there were before.
    back = {"flatnet_network_force": True, "flatnet_move": True}
    without_pods(site)
    check_move(movable, back)
    assert subnets(site) == leases
    without_pods(site)
    assert movable().changed() == set()


def check_move(movable: t.Any, variables: dict[str, t.Any]) -> None:
    """Moves as check mode says, and once; the hosts' pods then reach each other."""
    site: Site = movable.site
    checked = movable("--check", "--diff", **variables)
    run = movable("--diff", **variables)
    assert told(checked, LEASE, BRIDGE) == told(run, LEASE, BRIDGE)
    assert {(host.name, BRIDGE) for host in site.hosts} <= run.changed()
    assert movable(**variables).changed() == set()
    for host in site.hosts:
        assert addresses(host) == [gateway(subnet(site, host))]
    site.add_pods()
    assert site.lost() == []


def asked(by_name: dict[str, str]) -> dict[str, t.Any]:
    """flatnet_subnet, host by host."""
    return {"flatnet_subnet": "{{ %s[inventory_hostname] }}" % json.dumps(by_name)}


def test_a_subnet_that_is_asked_for_moves_a_host_only_if_that_is_asked_for(movable: t.Any) -> None:
    """Somebody gives a host another flatnet_subnet; the bridge has an address of somebody else,
    which is told before the lease is written and stays."""
    site: Site = movable.site
    host = site.hosts[1]
    homes = {each.name: subnet(site, each) for each in site.hosts}
    held = homes[host.name]
    (wanted,) = site.unheld(1)
    variables = asked({**homes, host.name: wanted})
    before, kernel = etcd(site), site.kernel()
    run = movable(code=2, **variables)
    failed = {each["host"] for each in run.records if each.get("failed") and each["task"] == LEASE}
    assert failed == {host.name}
    for words in (held, wanted, "flatnet_move"):
        assert words in run.failures()[host.name]
    assert (etcd(site), site.kernel()) == (before, kernel)

    variables["flatnet_move"] = True
    host.exec(["ip", "addr", "add", "192.0.2.77/32", "dev", "cni0"], check=True)
    for arguments in (["--check"], []):
        run = movable(*arguments, code=2, **variables)
        assert "192.0.2.77/32" in run.failures()[host.name]
    assert etcd(site) == before
    host.exec(["ip", "addr", "del", "192.0.2.77/32", "dev", "cni0"], check=True)

    movable(**variables)
    assert subnet(site, host) == wanted
    movable(**asked(homes), flatnet_move=True)
    assert addresses(host) == [gateway(held)]
    assert site.kernel() == kernel
    assert movable().changed() == set()


@pytest.mark.parametrize("backend", DEVICE_TASKS)
def test_a_move_that_is_killed_at_any_task_is_made_up_for(
    lab_factory: t.Callable[..., Lab], ansible: Ansible, backend: str
) -> None:
    """The controller is lost in the middle of a move, after each task, on the way there and back:
    the next run completes it, whether or not it is told to move hosts."""
    site = Site(lab_factory(hosts=2), ansible)
    common = {"flatnet_backend": {"type": backend}}
    site.play(**common)
    homes, others = [subnet(site, host) for host in site.hosts], site.unheld(2)
    for number, task in enumerate(tasks(backend, since="Lease a subnet")):
        wanted = homes if number % 2 else others
        by_name = {host.name: subnet for host, subnet in zip(site.hosts, wanted)}
        moving = {**common, "flatnet_move": True, **asked(by_name)}
        killed = site.play(code=KILLED, env={"RECORD_KILL": task}, **moving)
        assert killed.records[-1]["task"].endswith(task)
        site.wait_until_idle()
        # Without the order to move, hosts are either there already or stay where they are.
        site.play(**common)
        check_whole(site)
        site.play(**moving)
        assert [subnet(site, host) for host in site.hosts] == wanted
        check_whole(site)
    assert site.play(**moving).changed() == set()


def check_whole(site: Site) -> None:
    assert len(site.lab.etcd.get_prefix(SUBNETS)) == len(site.hosts)
    for host in site.hosts:
        assert addresses(host) == [gateway(subnet(site, host))]
    site.add_pods()
    assert site.lost() == []
    without_pods(site)


def test_flatnet_sync_follows_a_move_there_and_back(
    lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> None:
    """While the resident program runs, a host is moved: it follows, and does not fight the run."""
    site = Site(lab_factory(hosts=2), ansible, sync="service")
    site.play()
    try:
        host = site.hosts[0]
        home = subnet(site, host)
        for wanted in (*site.unheld(1), home):
            variables = {"flatnet_subnet": wanted, "flatnet_move": True}
            site.play("playbooks/site.yml", "--limit", host.name, **variables)
            assert subnet(site, host) == wanted
            wait(lambda each=wanted: addresses(host) == [gateway(each)], "the bridge's address")
            site.add_pods()
            wait(lambda: site.lost() == [], "pods that reach each other")
            without_pods(site)
            assert site.play().changed() == set()
            # Still so, now that it has looked again.
            assert addresses(host) == [gateway(wanted)]
    finally:
        site.play("playbooks/remove.yml", flatnet_remove="flatnet")


# --- a network that is taken --------------------------------------------------------------------


def test_a_network_that_overlaps_the_underlay_is_refused_first(
    lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> None:
    """Somebody chooses the underlay's network, or one that a single host uses otherwise: refused
    before etcd or a host is changed, naming the interface and the address."""
    site = Site(lab_factory(hosts=2), ansible)
    first, second = site.hosts
    kernel = site.kernel()

    def forwards(host: Host) -> str:
        return host.exec(["cat", "/proc/sys/net/ipv4/ip_forward"], check=True).stdout.strip()

    before = [forwards(host) for host in site.hosts]
    for network in ("172.21.0.0/16", "172.16.0.0/12", "172.21.0.0/24"):
        for arguments in (["--check"], []):
            run = site.play("playbooks/site.yml", *arguments, code=2, flatnet_network=network)
            messages = run.failures()
            assert f"eth0 has {first.address}/16" in messages[first.name]
            assert f"eth0 has {second.address}/16" in messages[second.name]
            assert network in messages[first.name]
            assert run.changed() == set()
    assert "has 172.21.0.11/16" in site.module(
        "flannel_network", {"etcd_endpoints": site.lab.etcd.endpoints, "network": network}, code=2
    )
    assert etcd(site) == {}

    # One host is in the way of it: the other is not held up.
    second.exec(["ip", "link", "add", "wg0", "type", "bridge"], check=True)
    second.exec(["ip", "addr", "add", "10.5.200.1/32", "dev", "wg0"], check=True)
    run = site.play(code=2)
    assert "wg0 has 10.5.200.1/32" in run.failures()[second.name]
    assert {host for host, _task in run.changed()} == {first.name}
    assert [forwards(second), forwards(first)] == [before[1], "1"]
    assert list(site.leases()) == [first.address]
    second.exec(["ip", "link", "del", "wg0"], check=True)
    assert site.kernel()[second.name] == kernel[second.name]
    site.play()
    # A running overlay is not in its own way.
    assert site.play().changed() == set()
