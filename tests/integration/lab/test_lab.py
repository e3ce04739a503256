# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab builds what it says, keeps to itself, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.lab import Host, Lab, LabError
from tests.lab.system import netns_pids
from tests.lab.waiting import PATIENCE, wait

REPOSITORY = Path(__file__).resolve().parents[3]


def traces(name: str) -> dict[str, list[str]]:
    """Everything on this machine that a lab of this name could leave."""
    namespaces = [path.name for path in Path("/run/netns").glob(f"{name}-*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return {
        "namespaces": namespaces,
        "mounts": [line for line in mounts if f"/{name}/" in line or f"/{name}-" in line],
        "processes": [line for line in commands if f"/{name}/" in line or f"/{name}-" in line],
        "state": [str(path) for path in Path("/run/flatnet-lab").glob(name)],
    }


NOTHING: dict[str, list[str]] = {"namespaces": [], "mounts": [], "processes": [], "state": []}


def give_subnets(lab: Lab) -> None:
    """What the collection does, by hand: a bridge with a subnet, and routes to the others."""
    for number, host in enumerate(lab.hosts, 1):
        ip(host, "link add cni0 type bridge")
        ip(host, f"addr add 10.5.{number}.1/24 dev cni0")
        ip(host, "link set cni0 up")
        host.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        for other, peer in enumerate(lab.hosts, 1):
            if peer.segment == host.segment and peer != host:
                ip(host, f"route add 10.5.{other}.0/24 via {peer.address}")


def ip(host: Host, command: str) -> None:
    host.exec(["ip", *command.split()], check=True)


@pytest.fixture(scope="module")
def routed(lab_factory: t.Callable[..., Lab]) -> Lab:
    return lab_factory(hosts=3, segments=2, mtu=1400)


def test_hosts_of_both_segments_reach_each_other_with_packets_of_the_mtu(routed: Lab) -> None:
    assert [host.segment for host in routed.hosts] == [1, 1, 2]
    matrix = routed.ping_matrix(routed.hosts, size=1400, df=True)
    assert len(matrix) == 6
    assert all(matrix.values())


def test_packets_above_the_mtu_do_not_pass(routed: Lab) -> None:
    assert not any(routed.ping_matrix(routed.hosts, size=1401, df=True, retries=0).values())


def test_hosts_of_two_segments_are_a_router_apart(routed: Lab) -> None:
    host, neighbour, remote = routed.hosts
    routes = [
        json.loads(host.exec(["ip", "-j", "route", "get", peer.address], check=True).stdout)[0]
        for peer in (neighbour, remote)
    ]
    assert "gateway" not in routes[0]
    assert routes[1]["gateway"] == "172.21.0.1"


def test_pods_that_have_a_path_answer_and_the_others_do_not(routed: Lab) -> None:
    give_subnets(routed)
    pods = [
        routed.add_pod(host, f"10.5.{number}.2/24", gateway=f"10.5.{number}.1")
        for number, host in enumerate(routed.hosts, 1)
    ]
    assert [pod.name for pod in pods] == ["host1-pod1", "host2-pod1", "host3-pod1"]
    matrix = routed.ping_matrix(retries=1)
    apart = {pair for pair, answered in matrix.items() if not answered}
    # Nobody gave the third host, behind the router, routes to the others.
    assert apart == {pair for pair in matrix if "host3-pod1" in pair}
    assert routed.ping_matrix(pods[:2], size=1400, df=True) == {
        ("host1-pod1", "host2-pod1"): True,
        ("host2-pod1", "host1-pod1"): True,
    }


def test_a_pod_needs_a_bridge(routed: Lab) -> None:
    with pytest.raises(LabError, match="host1 has no bridge 'br9'"):
        routed.add_pod("host1", "10.5.1.9/24", bridge="br9")


def test_etcd_answers_every_host(routed: Lab) -> None:
    routed.etcd.put("/greeting", "hello")
    endpoint = routed.etcd.endpoints[0]
    for host in routed.hosts:
        health = (
            f"import urllib.request as u; print(u.urlopen('{endpoint}/health').read().decode())"
        )
        answer = host.exec(["/usr/bin/python3", "-c", health], check=True)
        assert json.loads(answer.stdout)["health"] == "true"
    assert routed.etcd.get("/greeting") == "hello"
    assert routed.etcd.delete("/greeting") == 1
    assert routed.etcd.get("/greeting") is None


def test_etcd_keeps_its_data_over_a_crash(routed: Lab) -> None:
    routed.etcd.put("/kept", "yes")
    routed.etcd.kill()
    assert routed.etcd.pids(1) == []
    with pytest.raises(LabError, match="etcdctl get"):
        routed.etcd.ctl("get", "/kept", "--command-timeout=500ms", "--dial-timeout=500ms")
    routed.etcd.start()
    assert routed.etcd.get("/kept") == "yes"


def test_etcd_that_cannot_start_shows_the_end_of_its_log(lab_factory: t.Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=1)
    lab.etcd.stop()
    lab.etcd.member_arguments = ["--auth-token=nonsense"]
    with pytest.raises(LabError, match=r"(?s)etcd member 1 ended with .*nonsense"):
        lab.etcd.start()


def test_three_members_work_while_two_of_them_live(lab_factory: t.Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=1, etcd=3)
    assert len(lab.etcd.endpoints) == 3
    lab.etcd.put("/a", "1")
    lab.etcd.kill(1)
    assert lab.etcd.get("/a") == "1"
    lab.etcd.start(1)
    lab.etcd.stop(2)
    assert lab.etcd.get("/a") == "1"


def test_a_host_has_files_and_a_name_of_its_own(routed: Lab) -> None:
    for host in routed.hosts:
        seen = host.exec(["cat", "/etc/machine-id", "/etc/hostname"], check=True).stdout.split()
        assert seen == [host.machine_id, host.name]
        assert host.exec(["uname", "-n"], check=True).stdout.strip() == host.name
        assert host.exec(["test", "-e", "/run/systemd/system"]).returncode != 0
    assert len({host.machine_id for host in routed.hosts}) == 3
    first, second, _third = routed.hosts
    first.exec(["sh", "-c", "echo mine >/etc/own; echo mine >/run/own"], check=True)
    assert (first.etc / "own").read_text() == (first.run / "own").read_text() == "mine\n"
    assert second.exec(["cat", "/etc/own"]).returncode != 0
    assert not Path("/etc/own").exists()
    assert not Path("/run/own").exists()


def test_a_lab_built_again_has_the_same_machine_ids() -> None:
    assert Lab("again").hosts[2].machine_id == Lab("again").hosts[2].machine_id
    assert Lab("again").hosts[2].machine_id != Lab("other").hosts[2].machine_id


def test_nothing_leads_out_of_a_lab(routed: Lab) -> None:
    namespaces = [path.name for path in Path("/run/netns").glob(f"{routed.name}-*")]
    assert len(namespaces) >= 6
    ends: list[tuple[int, int]] = []
    for netns in namespaces:
        links = json.loads(subprocess.check_output(["ip", "-n", netns, "-j", "link"]))
        # Only a veth has its other end elsewhere.
        ends += [(link["ifindex"], link["link_index"]) for link in links if "link_index" in link]
    # Each end has its other end in one of the lab's namespaces, too.
    assert ends
    assert sorted(ends) == sorted((other, own) for own, other in ends)
    outside = json.loads(subprocess.check_output(["ip", "-j", "addr"]))
    addresses = {info["local"] for link in outside for info in link["addr_info"]}
    for address in addresses - {"127.0.0.1", "::1"}:
        if "." in address:
            assert routed.hosts[0].exec(["fping", "-r", "0", "-t", "200", address]).returncode == 1


def test_a_reboot_takes_all_but_the_disk(lab_factory: t.Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=2, segments=2)
    host = lab.host("host2")
    give_subnets(lab)
    lab.add_pod(host, "10.5.2.2/24")
    (host.etc / "kept").write_text("x")
    (host.run / "lost").write_text("x")
    with subprocess.Popen(host.command(["sleep", "60"])) as process:
        # Until it has become the command it is still on its way into the namespace.
        while Path(f"/proc/{process.pid}/comm").read_text(encoding="ascii") != "sleep\n":
            time.sleep(0.01)
        for _again in range(2):
            lab.reboot(host)
        assert process.wait(5) == -signal.SIGKILL
    assert not host.exec(["ip", "link", "show", "cni0"]).stdout
    assert host.exec(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"
    assert host.exec(["cat", "/etc/kept"]).stdout == "x"
    assert host.exec(["ls", "/run"]).stdout == "lock\n"
    assert lab.pods == []
    assert all(lab.ping_matrix(lab.hosts).values())
    lab.down()
    assert traces(lab.name) == NOTHING


def test_two_labs_run_side_by_side(routed: Lab, lab_factory: t.Callable[..., Lab]) -> None:
    other = lab_factory(hosts=2)
    assert [host.address for host in other.hosts] == [host.address for host in routed.hosts[:2]]
    other.etcd.put("/whose", "other")
    assert routed.etcd.get("/whose") is None
    assert all(other.ping_matrix(other.hosts).values())
    other.down()
    assert traces(other.name) == NOTHING
    assert all(routed.ping_matrix(routed.hosts).values())


def test_down_leaves_nothing_and_can_be_repeated(lab_factory: t.Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=2)
    host = lab.hosts[0]
    ip(host, "link add cni0 type bridge")
    ip(host, "link set cni0 up")
    pod = lab.add_pod(host, "10.5.1.2/24")
    sleepers = [
        subprocess.Popen(node.command(["sleep", "1000"]), start_new_session=True)
        for node in (host, pod)
    ]
    wait(lambda: len(netns_pids([host.netns, pod.netns])) == 2, "the sleepers")
    left = traces(lab.name)
    assert all(left.values()), f"this test looks for the wrong things: {left}"
    lab.down()
    lab.down()
    assert [sleeper.wait(PATIENCE) for sleeper in sleepers] == [-signal.SIGKILL, -signal.SIGKILL]
    assert traces(lab.name) == NOTHING


def test_another_process_takes_down_what_a_killed_one_left() -> None:
    name = f"t{os.getpid()}-orphan"
    script = f"import os, tests.lab; tests.lab.Lab('{name}', hosts=2).up(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    assert all(traces(name).values())
    assert Lab.load(name).hosts[1].name == "host2"
    with pytest.raises(LabError, match=f"lab '{name}' exists already"):
        Lab(name).up()
    command = [sys.executable, "-m", "tests.lab", "down", name]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    assert traces(name) == NOTHING


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "stage",
    ["flatnet-lab/{}", "netns/{}-host9", "flatnet-lab/{}/etcd", "flatnet-lab/{}/hosts/host20/etc"],
)
def test_up_that_is_interrupted_leaves_nothing(how: signal.Signals, stage: str) -> None:
    name = f"t{os.getpid()}-cut"
    reached = Path("/run", stage.format(name))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", "up", name, "--hosts", "150"],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not reached.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        # As a terminal does it: the whole group gets the signal, also the commands being run.
        os.killpg(process.pid, how)
        assert process.wait(PATIENCE) == 128 + how
        assert traces(name) == NOTHING
    finally:
        Lab(name).down()


def test_a_lab_that_fails_to_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"t{os.getpid()}-failed"
    subprocess.run(["ip", "netns", "add", f"{name}-host2"], check=True)
    try:
        with pytest.raises(LabError, match=f"exist already: {name}-host2"):
            Lab(name).up()
        # What was there before is not the lab's.
        assert traces(name)["namespaces"] == [f"{name}-host2"]
    finally:
        subprocess.run(["ip", "netns", "del", f"{name}-host2"], check=True)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match="the lab needs 'ip', which is not installed"), Lab(name):
        pass
    assert traces(name) == NOTHING


def test_the_context_manager_cleans_up_after_an_error() -> None:
    name = f"t{os.getpid()}-error"
    with pytest.raises(ZeroDivisionError), Lab(name, hosts=1, etcd=0) as lab:
        _ = 1 / len(lab.etcd.endpoints)
    assert traces(name) == NOTHING


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Demo"}, "'Demo' cannot name a lab"),
        ({"name": "../x"}, "cannot name a lab"),
        ({"name": "x", "hosts": 0}, "hosts must be from 1 to 1000, not 0"),
        ({"name": "x", "segments": 9}, "segments must be from 1 to 8, not 9"),
        ({"name": "x", "etcd": 2}, "0, 1 or 3 etcd members, not 2"),
        ({"name": "x", "mtu": 100}, "mtu must be from 576"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, t.Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Lab(**arguments)


def test_a_hundred_hosts(lab_factory: t.Callable[..., Lab]) -> None:
    before = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3").read_text()
    lab = lab_factory(hosts=100, segments=2)
    assert all(lab.ping_matrix(lab.hosts).values())
    lab.down()
    if not Lab.names():
        assert Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3").read_text() == before


def test_the_demo_inventory_is_the_one_of_its_lab(tmp_path: Path) -> None:
    lab = Lab("demo")
    static = yaml.safe_load((REPOSITORY / "inventories/demo/hosts.yml").read_text())
    shared = yaml.safe_load((REPOSITORY / "inventories/demo/group_vars/all.yml").read_text())
    path = lab.inventory(python="/usr/bin/python3", path=tmp_path / "inventory.yml")
    written = yaml.safe_load(path.read_text())
    static["flatnet"]["vars"].update(
        {name: value for name, value in shared.items() if name in written["flatnet"]["vars"]}
    )
    assert written == static
