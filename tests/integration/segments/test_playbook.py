# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/segment.yml on three hosts, with a segment of each mode at once.

All four segments have the same members, by MAC address and address: whoever answers a ping is in
the same segment. The tests build on each other.
"""

from __future__ import annotations

import re
import typing as t

import pytest

from tests.integration.modules import run_module, run_modules
from tests.integration.playbooks import Ansible, Run, Site
from tests.integration.segments.capture import Capture, Datagram
from tests.lab import Lab, Pod
from tests.lab.system import parallel
from tests.lab.waiting import wait

BOOK = "playbooks/segment.yml"
TASK_NAME = "flatnet.overlay.segment : Take part in each segment"
MODES = ["static", "proxy", "multicast", "flood"]
HOSTS = ["host1", "host2", "host3"]


def mac(number: int) -> str:
    return f"02:00:00:00:03:0{number}"


def address(number: int) -> str:
    return f"3.3.3.{number}"


def address6(number: int) -> str:
    return f"fd00:3::{number}"


def members(hosts: t.Sequence[str] = HOSTS) -> list[dict[str, t.Any]]:
    """Member N is on the Nth of the hosts."""
    return [
        {"host": host, "mac": mac(number), "addresses": [address(number), address6(number)]}
        for number, host in enumerate(hosts, 1)
    ]


def segments(first: int = 0) -> list[dict[str, t.Any]]:
    """Segment N has VNI 100 + N, and the mode that is ``first`` places further in the list."""
    return [
        {
            "name": f"segment{number}",
            "vni": 100 + number,
            "mode": MODES[(number + first) % 4],
            "group": f"239.1.1.{number + 1}",
            "members": members(),
        }
        for number in range(4)
    ]


def play(site: Site, *arguments: str, code: int = 0, **variables: t.Any) -> Run:
    return site.play(BOOK, *arguments, code=code, env={"ANSIBLE_PIPELINING": "1"}, **variables)


class Pods:
    """A pod on each host in each segment."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.by_vni: dict[int, list[Pod]] = {}

    def join(self, host: str, vni: int, number: int) -> Pod:
        pod = self.lab.add_pod(host, f"{address(number)}/24", bridge=f"br{vni}")
        for command in (
            f"ip link set eth0 down address {mac(number)}",
            "sysctl -qw net.ipv6.conf.eth0.accept_dad=0",
            "ip link set eth0 up",
            f"ip address add {address6(number)}/64 dev eth0 nodad",
        ):
            pod.exec(command.split(), check=True)
        self.by_vni.setdefault(vni, []).append(pod)
        return pod

    def reached(self, pod: Pod, numbers: t.Iterable[int] = (1, 2, 3)) -> set[str]:
        """Of the members with these numbers, the addresses that answer the pod."""
        answered: set[str] = set()
        for option, form in (("-4", address), ("-6", address6)):
            others = [form(number) for number in numbers if address(number) != pod.address]
            done = pod.exec(["fping", option, "-a", "-q", "-r", "3", "-t", "500", *others])
            assert done.returncode in (0, 1), done.stderr
            answered.update(done.stdout.split())
        return answered

    def all_reach_all(self, only: int | None = None) -> None:

        def complete(pod: Pod) -> bool:
            numbers = [number for number in (1, 2, 3) if address(number) != pod.address]
            return self.reached(pod) == {
                form(number) for number in numbers for form in (address, address6)
            }

        pods = [pod for vni, each in self.by_vni.items() if only in (None, vni) for pod in each]
        assert pods
        # A bridge's port passes frames a moment after it is up.
        wait(lambda: all(parallel(complete, pods)), "a member does not answer another one")

    def forget(self, vni: int) -> None:
        """Nobody knows a neighbour any more."""
        for pod in self.by_vni[vni]:
            pod.exec(["ip", "neigh", "flush", "all"], check=True)
            pod.exec(["ip", "-6", "neigh", "flush", "all"], check=True)


@pytest.fixture(scope="module")
def site(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    return Site(lab_factory(hosts=3, etcd=0), ansible)


@pytest.fixture(scope="module")
def pods(site: Site) -> Pods:
    return Pods(site.lab)


@pytest.fixture(scope="module")
def empty(site: Site) -> dict[str, str]:
    return site.kernel()


def tables(site: Site, vni: int) -> list[str]:
    """What the hosts' VXLAN devices were told, without what they learned."""
    script = f"""
        bridge fdb show dev vxlan{vni} | grep ' self permanent'
        ip neigh show dev vxlan{vni} nud permanent"""
    shown = [host.exec(["sh", "-c", script], check=True).stdout for host in site.lab.hosts]
    assert all("dst" in each for each in shown)
    return ["\n".join(sorted(each.splitlines())) for each in shown]


def test_all_modes_at_once_as_check_mode_said_and_a_second_run_changes_nothing(
    site: Site, pods: Pods, empty: dict[str, str]
) -> None:
    planned = play(site, "--check", "--diff", flatnet_segments=segments())
    assert site.kernel() == empty
    done = play(site, "--diff", flatnet_segments=segments())
    assert done.changed() == {(host, TASK_NAME) for host in HOSTS}
    assert planned.changed() == done.changed()
    # Hosts are shown in the order in which they are done.
    said, did = (sorted(each.shown(TASK_NAME).splitlines()) for each in (planned, done))
    assert said == did
    again = play(site, flatnet_segments=segments())
    assert again.changed() == set()
    for vni in (100, 101, 102, 103):
        for number, host in enumerate(HOSTS, 1):
            pods.join(host, vni, number)
    pods.all_reach_all()


def seen(site: Site, pods: Pods, vni: int, source: int = 0) -> tuple[list[Datagram], set[str]]:
    """What a pod's pings to all others make pass the underlay of its host."""
    pods.forget(vni)
    with Capture(site.lab.hosts[source]) as capture:
        # Alone first: from the questions of others it would learn where they are.
        pods.reached(pods.by_vni[vni][source])
        pods.all_reach_all(only=vni)
        found = [each for each in capture.datagrams() if each.vni == vni]
    return found, {each.kind for each in found}


def test_arp_and_nd_never_cross_the_underlay_in_mode_proxy(site: Site, pods: Pods) -> None:
    found, kinds = seen(site, pods, 101)
    assert {"ping", "ping6"} <= kinds
    assert kinds & {"arp", "ns", "na"} == set()
    addresses = {host.address for host in site.lab.hosts}
    for each in found:
        assert {each.source, each.target} <= addresses
        assert (each.port, each.ttl, each.dont_fragment) == (4789, 64, False)
        if each.kind.startswith("ping"):
            assert {each.inner_source, each.inner_target} <= {mac(1), mac(2), mac(3)}
    # What a member says of itself unasked stays on the host, too.
    pod = pods.by_vni[101][0]
    with Capture(site.lab.hosts[0]) as capture:
        pod.exec(["sysctl", "-qw", "net.ipv6.conf.eth0.ndisc_notify=1"], check=True)
        pod.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"], check=True)
        pod.exec(["ip", "link", "set", "eth0", "down"], check=True)
        pod.exec(["ip", "link", "set", "eth0", "up"], check=True)
        pod.exec(["ip", "address", "add", f"{address6(1)}/64", "dev", "eth0", "nodad"], check=True)
        pods.all_reach_all(only=101)
        kinds = {each.kind for each in capture.datagrams() if each.vni == 101}
    assert kinds & {"arp", "ns", "na"} == set()


def test_arp_and_nd_are_flooded_and_answered_by_the_owner_in_mode_static(
    site: Site, pods: Pods
) -> None:
    found, kinds = seen(site, pods, 100)
    assert {"arp", "ns", "na", "ping", "ping6"} <= kinds
    first, *others = [host.address for host in site.lab.hosts]
    asked = {
        each.target
        for each in found
        if (each.source, each.inner_source) == (first, mac(1))
        and each.kind == "arp"
        and each.inner_target == "ff:ff:ff:ff:ff:ff"
    }
    assert asked == set(others)
    answers = {each.inner_source for each in found if each.kind == "na"}
    assert answers <= {mac(1), mac(2), mac(3)}
    # With an entry for each member, one host gets what is for its member.
    for each in found:
        if each.kind == "ping" and each.inner_target == mac(2):
            assert each.target == others[0]


def test_multicast_sends_to_the_group_and_learns(site: Site, pods: Pods) -> None:
    found, kinds = seen(site, pods, 102)
    assert {"arp", "ping"} <= kinds
    assert "239.1.1.3" in {each.target for each in found if each.kind == "arp"}
    table = site.lab.hosts[0].exec(["bridge", "fdb", "show", "dev", "vxlan102"]).stdout
    assert f"{mac(2)} dst {site.lab.hosts[1].address} self" in table


def test_a_segment_does_not_see_another_one_with_the_same_members(site: Site, pods: Pods) -> None:
    gone = pods.by_vni[103].pop(1)
    site.lab.remove_pod(gone)
    assert pods.reached(pods.by_vni[103][0]) == {address(3), address6(3)}
    for vni in (100, 101, 102):
        pods.all_reach_all(only=vni)
    pods.join("host2", 103, 2)


def test_each_mode_becomes_another_one_in_place(site: Site, pods: Pods) -> None:
    vteps = {host.name: host.address for host in site.lab.hosts}
    for host in site.lab.hosts:
        asked = [{**each, "host": host.name, "vteps": vteps} for each in segments(1)]
        done = run_modules(host, "segment", asked)
        assert [each["changed"] for each in done] == [True] * 4
        assert "was made anew: proxy off cannot become on" in str(done[0]["warnings"])
    pods.all_reach_all()


def test_a_member_that_moves_is_reached_after_one_run(site: Site, pods: Pods) -> None:
    """Segment 100 has become a proxy, where nothing is learned."""
    pod = pods.by_vni[100].pop(1)
    site.lab.remove_pod(pod)
    vteps = {host.name: host.address for host in site.lab.hosts}
    for host in site.lab.hosts:
        arguments = {
            **segments(1)[0],
            "host": host.name,
            "vteps": vteps,
            "members": members(["host1", "host3", "host3"]),
        }
        assert run_module(host, "segment", arguments)["changed"]
    pods.join("host3", 100, 2)
    pods.all_reach_all(only=100)
    for host, count in zip(site.lab.hosts, (2, 3, 1)):
        table = host.exec(["bridge", "fdb", "show", "dev", "vxlan100"]).stdout
        macs = set(re.findall(r"(02:00:00:00:03:\S+) dst", table))
        assert len(macs) == count
        assert (f"{mac(2)} dst {site.lab.hosts[2].address}" in table) == (host.name != "host3")


def test_members_are_found_behind_the_ports_of_bridges(site: Site, pods: Pods) -> None:
    pods.all_reach_all(only=100)
    # What is written with nothing behind it is not given.
    found = [{"name": "segment0", "vni": 100, "discover": True, "hosts": None, "members": None}]
    done = play(site, flatnet_segments=found)
    for vni in (101, 102, 103):
        assert f"ip link delete vxlan{vni}" in " ".join(done.output.split())
    assert "ip link delete vxlan100" not in " ".join(done.output.split())
    pods.forget(100)
    pods.all_reach_all(only=100)
    table = site.lab.hosts[0].exec(["bridge", "fdb", "show", "dev", "vxlan100"]).stdout
    for number in (2, 3):
        assert f"{mac(number)} dst {site.lab.hosts[2].address} self permanent" in table


def test_a_host_that_is_not_reached_costs_nobody_its_entries(site: Site, ansible: Ansible) -> None:
    before = tables(site, 100)
    part = Site(site.lab, ansible, site.hosts[:2], name="part")
    failed = play(part, code=2, flatnet_segments=segments(1)[:1])
    told = (
        "segment segment0: the VTEP address of host3 is not known, because this run has not "
        "reached it; nothing was changed; run it for all hosts of the segment, or set "
        "flatnet_segment_vtep"
    )
    assert " ".join(failed.output.split()).count(told) >= 2
    assert tables(site, 100) == before
    # The inventory may have what the run cannot read.
    play(
        part, "--check", flatnet_segments=segments(1)[:1], flatnet_segment_vtep="{{ ansible_host }}"
    )


def test_removed_without_a_trace(site: Site, ansible: Ansible, empty: dict[str, str]) -> None:
    one = Site(site.lab, ansible, site.hosts[:1], name="one")
    wrong = play(one, code=2, flatnet_segments=segments(), flatnet_segments_remove="blue")
    assert "blue is not among flatnet_segments" in " ".join(wrong.output.split())
    for pod in site.lab.pods[:]:
        site.lab.remove_pod(pod)
    names = ",".join(f"segment{number}" for number in range(4))
    play(site, flatnet_segments=segments(), flatnet_segments_remove=names)
    assert site.kernel() == empty
