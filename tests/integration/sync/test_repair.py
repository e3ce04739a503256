# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync watch repairs what others do to the kernel, tells, and never fights a playbook."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import typing as t

import pytest

from tests.integration.modules import run_module
from tests.integration.programs import VTEP, Peer, Program, Programs, needed, peer, reached
from tests.lab.waiting import wait

PEERS = list(map(peer, range(100, 120)))


@pytest.fixture(scope="module")
def fleet(programs: Programs) -> Programs:
    """Services that know each other and twenty peers more; with pods."""
    programs.started()
    programs.join(*PEERS)
    programs.settle()
    programs.add_pods()
    assert programs.pods_answer()
    return programs


@pytest.fixture
def program(fleet: Programs) -> t.Iterator[Program]:
    """One of them, as it should be before and after."""
    first = fleet.all[0]
    fleet.settle()
    # What it repaired for the test before is not taken for what it repairs in this one.
    fleet.told(first)
    yield first
    if not first.running:
        first.start()
    fleet.settle()
    assert fleet.pods_answer()


DRIFTS = [
    ("link del flannel.1", "add link flannel.1"),
    ("link set flannel.1 down", "change link flannel.1: up off to on"),
    ("link set flannel.1 mtu 1300", "change link flannel.1: mtu 1300 to 1450"),
    ("link set flannel.1 address 02:00:00:00:00:09", "change link flannel.1: mac 02:00"),
    ("-4 addr flush dev flannel.1", "add address 10.5."),
    ("addr add 10.5.199.1/32 dev flannel.1", "remove address 10.5.199.1/32"),
    ("-4 addr flush dev cni0", "add address 10.5."),
    ("link set cni0 down", "change link cni0: up off to on"),
    ("link set cni0 mtu 1500", "change link cni0: mtu 1500 to 1450"),
    ("route flush proto 110", "add route 10.5.100.0/24"),
    ("route flush dev flannel.1", "add route 10.5.100.0/24"),
    ("route del 10.5.107.0/24", "add route 10.5.107.0/24"),
    ("route replace 10.5.107.0/24 via 10.5.108.0 dev flannel.1 onlink proto 110", "10.5.107.0/24"),
    ("route add 10.5.99.0/24 dev flannel.1", "remove route 10.5.99.0/24"),
    ("route add 10.5.99.0/24 dev eth0 proto 110", "remove route 10.5.99.0/24"),
    ("neigh flush dev flannel.1 nud permanent", "add neigh 10.5.100.0"),
    ("neigh del 10.5.107.0 dev flannel.1", "add neigh 10.5.107.0"),
    ("neigh replace 10.5.107.0 lladdr 02:00:00:00:00:01 dev flannel.1", "10.5.107.0"),
    ("neigh replace 10.5.107.0 nud reachable lladdr 02:00:00:00:00:01 dev flannel.1", "10.5.107.0"),
    ("neigh add 10.5.99.0 lladdr 02:00:00:00:00:01 dev flannel.1", "remove neigh 10.5.99.0"),
]
FDB_DRIFTS = [
    ("flush dev flannel.1", "add fdb aa:bb:cc:00:00:64"),
    ("del aa:bb:cc:00:00:6b dev flannel.1 self", "add fdb aa:bb:cc:00:00:6b"),
    ("replace aa:bb:cc:00:00:6b dst 172.21.0.99 dev flannel.1 self", "fdb aa:bb:cc:00:00:6b"),
    ("add 02:00:00:00:00:01 dst 172.21.0.99 dev flannel.1 self", "remove fdb 02:00:00:00:00:01"),
]


@pytest.mark.parametrize(
    ("line", "repair"),
    [("ip " + line, repair) for line, repair in DRIFTS]
    + [("bridge fdb " + line, repair) for line, repair in FDB_DRIFTS],
)
def test_drift_is_repaired_and_told(
    fleet: Programs, program: Program, line: str, repair: str
) -> None:
    before, repaired = program.dump(), program.told("repaired")
    said, since = len(program.said()), time.time()
    done = program.host.exec(line.split())
    if "fdb flush" in line and done.returncode:
        pytest.fail("bridge(8) here cannot flush: " + done.stderr)
    assert done.returncode == 0, done.stderr
    begin = time.monotonic()
    program.becomes(before)
    print("%.2f s: %s" % (time.monotonic() - begin, line))
    fleet.reaches(program, fleet.peers())
    wait(lambda: program.told("repaired") > repaired, "word of it")
    # The status has the last of many, the log the first of each time.
    wait(lambda: repair in program.repairs(since) + program.said()[said:], "what it repaired")
    assert "repaired: " in program.said()[said:]
    wait(lambda: program.told("errors") == [])


def test_what_is_not_ours_is_left_alone(program: Program) -> None:
    lines = (
        "route add 10.9.0.0/16 dev eth0",
        "neigh add 172.21.0.99 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
        "addr add 10.5.77.1/24 dev cni0",
        "link add vxlan9 type vxlan id 9 dstport 4789 dev eth0",
    )
    repaired = program.told("repaired")
    for line in lines:
        program.ip(line)
    before = program.dump()
    # It looks at everything to repair this.
    program.ip("route flush proto 110")
    program.becomes(before)
    wait(lambda: program.told("repaired") > repaired, "word of it")
    for foreign in ("10.9.0.0", "172.21.0.99", "10.5.77.1", "vxlan9"):
        assert foreign not in program.repairs()
    for line in lines:
        program.ip(line.replace(" add ", " del ", 1).partition(" type ")[0])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stop_and_a_start_leave_the_data_plane(
    fleet: Programs, program: Program, how: signal.Signals
) -> None:
    before = program.dump()
    code = program.kill() if how == signal.SIGKILL else program.stop()
    assert code == (-how if how == signal.SIGKILL else 0)
    assert program.dump() == before
    assert fleet.pods_answer()
    program.start()
    wait(lambda: program.told("connected"))
    assert program.dump() == before
    assert program.told("changes") == 0


def test_what_drifted_while_it_was_down_is_repaired(program: Program) -> None:
    before = program.dump()
    program.kill()
    program.ip("link del flannel.1")
    program.ip("link set cni0 down")
    program.start()
    program.becomes(before)


def test_drift_is_repaired_while_etcd_is_away(fleet: Programs, program: Program) -> None:
    before = program.dump()
    fleet.etcd.stop()
    try:
        wait(lambda: not program.told("connected"))
        program.ip("link del flannel.1")
        program.becomes(before)
        # And by a service that has never seen etcd.
        program.kill()
        program.ip("route flush proto 110")
        program.start()
        program.becomes(before)
        program.ip("neigh flush dev flannel.1 nud permanent")
        program.becomes(before)
        assert fleet.pods_answer()
        assert "etcd" in program.errors()
    finally:
        fleet.etcd.start()
    wait(lambda: program.told("connected"))
    wait(lambda: program.told("errors") == [])
    for each in fleet.all:
        wait(lambda each=each: each.told("connected"))


def test_somebody_elses_route_is_reported_and_its_place_taken_later(
    fleet: Programs, program: Program
) -> None:
    program.ip("route replace 10.5.107.0/24 dev eth0 proto static")
    wait(lambda: "10.5.107.0/24" in program.errors())
    assert "routes of somebody else are in the way" in program.errors()
    # Others come and go meanwhile, also together with a change of this one.
    new = peer(150)
    moved = Peer("10.5.107.0/24", "172.21.9.250", "aa:bb:cc:00:99:99")
    fleet.join(new, moved)
    wanted = needed([*(each for each in fleet.peers() if each.public_ip != program.host.address)])
    route = ("10.5.107.0/24", "10.5.107.0")
    without = wanted._replace(routes=wanted.routes - {route})
    wait(lambda: reached(program.host) == without)
    assert "dev eth0 proto static" in program.ip("route show 10.5.107.0/24")
    program.ip("route del 10.5.107.0/24 dev eth0")
    fleet.reaches(program, fleet.peers())
    wait(lambda: program.told("errors") == [])
    fleet.leave(new)
    fleet.join(peer(107))


def test_a_foreign_route_that_is_there_before_its_peer(fleet: Programs, program: Program) -> None:
    program.ip("route add 10.5.160.0/24 dev eth0 proto static")
    fleet.join(*map(peer, range(158, 163)))
    wait(lambda: "10.5.160.0/24" in program.errors())
    assert len(reached(program.host).routes) == len(PEERS) + 2 + 4
    program.ip("route del 10.5.160.0/24")
    fleet.settle()
    wait(lambda: program.told("errors") == [])
    fleet.leave(*map(peer, range(158, 163)))


def test_status_and_metrics_can_be_read(fleet: Programs, program: Program) -> None:
    program.ip("route flush proto 110")
    # With nothing left to repair they do not change while they are read.
    fleet.reaches(program, fleet.peers())
    fleet.told(program)
    found = json.loads(program.run("status", "--json").stdout)
    assert found["connected"] is True
    assert found["peers"] == len(PEERS) + 2
    assert found["repaired"] >= len(PEERS) + 2
    assert found["errors"] == found["unused"] == []
    assert (found["network"], found["backend"], found["device"]) == ("10.5.0.0/16", "vxlan", VTEP)
    table = program.run("status").stdout
    rows = dict(line.split(None, 1) for line in table.splitlines() if not line.startswith("drift"))
    assert rows["peers"] == str(len(PEERS) + 2)
    assert rows["subnet"] == found["subnet"]
    assert "drift repaired  %d\n" % found["repaired"] in table
    last = found["repairs"][-1]["what"]
    assert re.fullmatch(r"add route 10\.5\.\d+\.0/24 via 10\.5\.\d+\.0 dev flannel\.1 .*", last)
    assert last in table
    metrics = metrics_of((program.host.run / "flatnet/flatnet.prom").read_text())
    assert metrics["flatnet_connected"] == 1
    assert metrics["flatnet_peers"] == len(PEERS) + 2
    assert metrics["flatnet_drift_repaired_total"] == found["repaired"]
    assert metrics["flatnet_revision"] == found["revision"]
    assert metrics["flatnet_errors"] == 0


def metrics_of(text: str) -> dict[str, float]:
    """Prometheus' text format, strictly: HELP and TYPE before each sample."""
    found: dict[str, float] = {}
    lines = text.splitlines()
    assert text.endswith("\n")
    assert len(lines) % 3 == 0
    for told, kind, sample in zip(lines[::3], lines[1::3], lines[2::3]):
        name, value = sample.split(" ")
        assert told.startswith("# HELP %s " % name)
        assert kind in ("# TYPE %s gauge" % name, "# TYPE %s counter" % name)
        assert ("_total" in name) == kind.endswith("counter")
        found[name] = float(value)
    return found


def test_a_status_of_a_program_that_ended_says_so(program: Program) -> None:
    assert "not running" not in program.run("status").stdout
    program.kill()
    assert "not running" in program.run("status").stdout
    assert json.loads(program.run("status", "--json").stdout)["running"] is False


def test_it_takes_turns_with_modules(fleet: Programs, program: Program) -> None:
    """Modules run in a loop while leases come and go and the service follows them."""
    options = {"etcd_endpoints": fleet.etcd.endpoints}
    own = program.own
    churn = list(map(peer, range(160, 190)))
    over = threading.Event()
    turns = 0

    def come_and_go() -> None:
        nonlocal turns
        while not over.is_set():
            fleet.join(*churn[:15])
            fleet.join(*churn[15:])
            fleet.leave(*churn)
            turns += 1

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _turn in range(3):
            vtep = {"name": VTEP, "id": 1, "local": program.host.address, "mac": own.mac}
            vtep.update(dstport=8472, learning=False)
            for name, arguments in (("vxlan_vtep", vtep), ("flannel_peers", options)):
                done = run_module(program.host, name, arguments)
                assert not done["failed"], done["msg"]
                assert name == "flannel_peers" or not done["changed"], done
        wait(lambda: turns > 3, "enough turns")
    finally:
        over.set()
        thread.join()
    print("%d turns of %d leases" % (turns, len(churn)))
    fleet.settle()
    wait(lambda: program.told("errors") == [])
    assert "not as they should be" not in program.said()
    assert not run_module(program.host, "flannel_peers", options)["changed"]
