# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync watch follows etcd: bursts, garbage, members that die, hosts without a way to it."""

from __future__ import annotations

import random
import threading
import time
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdError,
    Op,
)

from tests.integration.overlay import vxlan_lease
from tests.integration.programs import SUBNETS, Pinging, Program, Programs, peer
from tests.lab import Lab
from tests.lab.waiting import wait

_CUT = """
add table inet cut
add chain inet cut out { type filter hook output priority 0; }
add chain inet cut in { type filter hook input priority 0; }
add rule inet cut out tcp dport 2379 drop
add rule inet cut in tcp sport 2379 drop
"""
BURST = list(map(peer, range(1, 101)))


@pytest.fixture(scope="module")
def fleet(programs: Programs) -> Programs:
    programs.started()
    programs.add_pods()
    assert programs.pods_answer()
    return programs


@pytest.fixture
def program(fleet: Programs) -> t.Iterator[Program]:
    """The first host, whose service may be stopped; afterwards all are right again."""
    first = fleet.all[0]
    fleet.settle()
    yield first
    if not first.running:
        first.start()
    fleet.clear()
    fleet.settle()


def test_a_burst_is_whole(fleet: Programs, program: Program) -> None:
    for _round in range(3):
        for each in BURST:
            fleet.join(each)
        fleet.settle()
        fleet.txn(Op.delete_prefix(SUBNETS + "10.5.1"))
        fleet.settle()
        for first in range(0, 100, 20):
            fleet.join(*BURST[first : first + 20])
        fleet.settle()
        fleet.leave(*BURST)
        fleet.settle()
        # And undone before anybody may have looked.
        fleet.join(*BURST)
        fleet.leave(*BURST)
        fleet.join(*BURST[:30])
        fleet.settle()
        fleet.leave(*BURST[:30])
    for each in fleet.all:
        assert each.told("listings") == 1, each.said()
        assert each.told("repaired") == 0, each.repairs()
    assert program.told("errors") == []


def test_who_left_while_it_was_down_is_gone_at_its_start(fleet: Programs, program: Program) -> None:
    fleet.join(*BURST[:30])
    fleet.settle()
    wait(lambda: b"10.5.30.0-24" in program.state.read_bytes())
    program.kill()
    fleet.leave(*BURST[:20])
    moved = BURST[25]._replace(public_ip="172.21.8.8", mac="aa:bb:cc:dd:ee:01")
    fleet.join(moved)
    program.start()
    fleet.reaches(program, fleet.peers())
    assert BURST[3].mac not in str(program.dump())
    assert BURST[25].mac not in str(program.dump())
    fleet.settle()


@pytest.fixture
def unplugged(fleet: Programs, program: Program) -> t.Iterator[Program]:
    """A host that can reach etcd no more, and has on disk what it knows; it may reach its peers."""
    fleet.saved(program)
    program.host.exec(["nft", "-f", "-"], check=True, stdin=_CUT)
    yield program
    program.host.exec(["nft", "delete table inet cut"])


def test_who_joins_while_a_host_cannot_reach_etcd_is_reached_later(
    fleet: Programs, unplugged: Program
) -> None:
    fleet.join(*BURST[:10])
    others = [each for each in fleet.all if each is not unplugged]
    fleet.settle(others)
    assert fleet.pods_answer()
    assert "10.5.1.0/24" not in str(unplugged.dump())
    unplugged.host.exec(["nft", "delete table inet cut"], check=True)
    fleet.settle()
    assert fleet.pods_answer()


def test_a_service_that_starts_without_etcd_keeps_what_there_is(
    fleet: Programs, unplugged: Program
) -> None:
    before = unplugged.dump()
    unplugged.kill()
    unplugged.start()
    assert unplugged.dump() == before
    assert "etcd" in unplugged.errors()
    fleet.join(*BURST[:10])
    unplugged.host.exec(["nft", "delete table inet cut"], check=True)
    fleet.settle()
    wait(lambda: unplugged.told("errors") == [])


GARBAGE_VALUES = [
    "garbage",
    "",
    "null",
    "[]",
    '{"PublicIP":',
    '{"PublicIP":"172.21.0.300","BackendType":"vxlan"}',
    '{"PublicIP":"172.21.9.9","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"zz"}}',
    '{"PublicIP":"172.21.9.9","BackendType":"vxlan","BackendData":7}',
    '{"PublicIP":"0.0.0.0","BackendType":"vxlan"}',
    "\x00\x01\x02",
]
GARBAGE_KEYS = [
    "x", "10.5.1.0", "10.5.1.0-33", "10.5.1.0-24-1", "10.5.1.1-24", "10.5.1.0-24&", "10.5.1.0/24",
    "300.5.1.0-24", "10.5.1.0-24/x", "", "ä", "fd00::-64", "010.5.1.0-24",
]  # fmt: skip


def test_garbage_does_no_harm(fleet: Programs, program: Program) -> None:
    fleet.join(*BURST[:10])
    peers = fleet.peers()
    fleet.settle()
    for number, value in enumerate(GARBAGE_VALUES):
        fleet.put(BURST[number % 10].name, value)
    for key in GARBAGE_KEYS:
        fleet.put(key, BURST[50].value)
        fleet.put(key, "garbage")
    # Whose leases are not valid any more stay peers; whom nobody knows does not become one.
    fleet.put("10.5.99.0-24", "garbage")
    for each in fleet.all:
        fleet.saved(each)
        fleet.reaches(each, peers)
    wait(lambda: "10.5.99.0-24" in str(program.told("unused")))
    # Also for a service that starts now, from what it remembers.
    fleet.saved(program)
    program.stop()
    # 10.5.1.0 is in garbage keys, too; they stand for no subnet and keep nothing.
    changed = BURST[0]._replace(mac="aa:bb:cc:dd:ee:01")
    fleet.join(changed)
    peers = [each for each in peers if each != BURST[0]] + [changed]
    program.start()
    fleet.reaches(program, peers)
    # Joins and leaves go on in the middle of it.
    fleet.join(*BURST[20:30])
    fleet.txn(Op.put(SUBNETS + "y", "garbage"), Op.put(SUBNETS + BURST[30].name, BURST[30].value))
    peers += BURST[20:31]
    for each in fleet.all:
        fleet.reaches(each, peers)
    # A garbage key that goes takes its peer along; one that is put right changes it.
    fleet.delete(BURST[0].name)
    right = BURST[1]._replace(mac="aa:bb:cc:dd:ee:02")
    fleet.join(right)
    peers = [each for each in peers if each not in (changed, BURST[1])] + [right]
    for each in fleet.all:
        fleet.reaches(each, peers)
    fleet.clear()
    fleet.settle()
    wait(lambda: program.told("unused") == [])


@pytest.mark.parametrize("after", ["gone", "another"])
def test_peers_that_only_the_kernel_knows(fleet: Programs, program: Program, after: str) -> None:
    """Their leases became garbage while nobody looked: they stay until it is known better."""
    fleet.join(*BURST[:3])
    fleet.settle()
    program.kill()
    program.state.unlink()
    peers = fleet.peers()
    for each in BURST[:3]:
        fleet.put(each.name, "garbage")
    program.start()
    fleet.reaches(program, peers)
    if after == "gone":
        fleet.leave(*BURST[:3])
    else:
        fleet.join(*(each._replace(mac=each.mac.replace("aa", "ae")) for each in BURST[:3]))
    fleet.reaches(program, fleet.peers())


def test_leases_that_must_not_be_used_are_named(fleet: Programs, program: Program) -> None:
    own = program.own
    bad = {
        "10.6.1.0-24": vxlan_lease("172.21.9.1", "aa:bb:cc:dd:00:01"),
        "10.5.41.0-24": vxlan_lease("172.21.9.1", "aa:bb:cc:dd:00:01", vni=7),
        "10.5.42.0-24": vxlan_lease("172.21.9.2", own.mac),
        "10.5.43.0-24": vxlan_lease(own.public_ip, "aa:bb:cc:dd:00:03"),
        "10.5.44.0-24": '{"PublicIP":"172.21.9.4","PublicIPv6":null,"BackendType":"host-gw"}',
        "10.5.45.0-24": vxlan_lease("10.5.230.7", "aa:bb:cc:dd:00:05"),
    }
    peers = fleet.peers()
    for name, value in bad.items():
        fleet.put(name, value)
    fleet.join(*BURST[:5])
    fleet.reaches(program, [*peers, *BURST[:5]])
    skipped = wait(lambda: len(program.told("unused")) >= len(bad) and program.told("unused"))
    for name in bad:
        assert name.replace("-", "/") in str(skipped)


def test_an_etcd_that_was_compacted(fleet: Programs, program: Program) -> None:
    fleet.etcd.kill()
    program.kill()
    fleet.etcd.start()
    for each in BURST[:10]:
        fleet.join(each)
    fleet.leave(*BURST[:5])
    # Who had to list in the middle of it is told who left, while etcd still knows.
    fleet.settle([each for each in fleet.all if each is not program])
    revision = fleet.inside(fleet.client.get, "x").revision
    fleet.etcd.ctl("compact", str(revision))
    # Those who left meanwhile may as well be lost: nobody can tell, so they stay for a while.
    program.configure(retention=1, check_interval=1)
    program.start()
    fleet.settle()


@pytest.fixture(scope="module")
def cluster(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Programs]:
    """Three hosts and an etcd of three members."""
    made = Programs(lab_factory(hosts=3, etcd=3))
    try:
        made.started()
        made.add_pods()
        yield made
    finally:
        made.close()


def test_members_of_etcd_are_killed_in_turn(cluster: Programs) -> None:
    """Under a stream of joins and leaves no host ends with a wrong table, and no ping is lost."""
    over = threading.Event()
    chance = random.Random(1)
    written = failed = 0

    def stream() -> None:
        nonlocal written, failed
        while not over.is_set():
            each = chance.choice(BURST)
            try:
                (cluster.join if chance.random() < 0.6 else cluster.leave)(each)
                written += 1
            except EtcdError:
                failed += 1  # perhaps done, perhaps not: etcd will tell
            time.sleep(0.005)

    pinging = Pinging(cluster.lab)
    thread = threading.Thread(target=stream)
    thread.start()
    try:
        for member in cluster.etcd.members:
            time.sleep(1)
            cluster.etcd.kill(member)
            time.sleep(3)
            cluster.etcd.start(member)
        wait(lambda: written > 200, "enough events")
    finally:
        over.set()
        thread.join()
    cluster.settle()
    assert pinging.lost() == []
    print("%d events, %d uncertain, %d pings" % (written, failed, pinging.sent))
    assert pinging.sent > 500
    # Quorum lost and back.
    cluster.etcd.kill(1)
    cluster.etcd.kill(2)
    for each in cluster.all:
        wait(lambda each=each: not each.told("connected"))
    assert cluster.pods_answer()
    cluster.etcd.start()
    cluster.join(*BURST[:20])
    cluster.settle()
