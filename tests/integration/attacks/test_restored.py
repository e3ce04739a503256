# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An etcd that was restored from a backup lacks what was written since: hosts tell that from leases
that were deleted, and keep the peers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.integration.programs import Program, Programs, peer
from tests.lab.waiting import wait

OLD, LOST = peer(40), peer(41)


@pytest.fixture
def fleet(programs: Programs) -> t.Iterator[Programs]:
    """With an etcd made anew: the one that the test before restored may be of another cluster."""
    programs.etcd.kill()
    shutil.rmtree(programs.etcd.directory / "etcd1")
    programs.started(check_interval=1)
    yield programs
    programs.end()


@pytest.fixture
def program(fleet: Programs) -> Program:
    return fleet.all[0]


def backup(fleet: Programs, tmp_path: Path) -> Path:
    found = tmp_path / "backup"
    fleet.etcd.ctl("snapshot", "save", str(found))
    return found


def restore(fleet: Programs, found: Path, cluster: str = "same") -> None:
    """As an administrator does it, with etcd's own tool. It makes the cluster's id from the token:
    the lab's is that of before."""
    etcd, before = fleet.etcd, cluster_of(fleet)
    token = fleet.lab.name if cluster == "same" else cluster
    etcd.kill()
    directory = etcd.directory / "etcd1"
    shutil.rmtree(directory)
    url = etcd.endpoint(1).replace("2379", "2380")
    subprocess.run(
        [
            *("etcdctl", "snapshot", "restore", str(found), "--name=etcd1"),
            *(f"--data-dir={directory}", f"--initial-cluster=etcd1={url}"),
            *(f"--initial-cluster-token={token}", f"--initial-advertise-peer-urls={url}"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    etcd.start()
    assert (cluster_of(fleet) == before) == (cluster == "same")


def cluster_of(fleet: Programs) -> int:
    return fleet.inside(fleet.client.get, "x").cluster


def advance(fleet: Programs, revision: int) -> None:
    """Write to something else until etcd is well past a revision."""
    while fleet.inside(fleet.client.put, "/other", "x") < revision + 50:
        pass


def revision_of(fleet: Programs) -> int:
    return fleet.inside(fleet.client.get, "x").revision


def lose(fleet: Programs, tmp_path: Path, cluster: str, compacted: bool) -> None:
    """A lease is written after the backup, known to all, and not in what is restored; nobody hears
    of etcd before it is past the revision that they knew."""
    fleet.join(OLD)
    found = backup(fleet, tmp_path)
    fleet.join(LOST)
    fleet.settle()
    for each in fleet.all:
        wait(lambda each=each: b"10.5.41.0-24" in each.state.read_bytes())  # type: ignore[misc]
    revision = revision_of(fleet)
    for each in fleet.all:
        each.host.exec(["nft", "-f", "-"], check=True, stdin=_CUT)
    restore(fleet, found, cluster)
    advance(fleet, revision)
    if compacted:
        fleet.etcd.ctl("compact", str(revision_of(fleet)))
    assert LOST.name not in fleet.leases()
    for each in fleet.all:
        each.host.exec(["nft", "delete table inet cut"], check=True)


_CUT = """
add table inet cut
add chain inet cut out { type filter hook output priority 0; }
add chain inet cut in { type filter hook input priority 0; }
add rule inet cut out tcp dport 2379 reject with tcp reset
add rule inet cut in tcp sport 2379 reject with tcp reset
"""


HISTORY = "does not have the history that was known: "
NOT_THERE = HISTORY + r"at revision \d+ it had no such key 10\.5\.41\.0-24 as was known"


@pytest.mark.parametrize(
    ("cluster", "compacted", "reason"),
    [
        ("same", False, NOT_THERE),
        ("same", True, HISTORY + r"revision \d+, which was known, is compacted"),
        ("another", False, HISTORY + "its cluster is"),
        ("another", True, HISTORY + "its cluster is"),
    ],
)
def test_a_lease_that_the_backup_had_not_keeps_its_peer(
    fleet: Programs, program: Program, tmp_path: Path, cluster: str, compacted: bool, reason: str
) -> None:
    """Bad luck: etcd is restored, and at a higher revision than a host knew once the host is back,
    as a cluster with the same id or with another; perhaps it has compacted what was before."""
    lose(fleet, tmp_path, cluster, compacted)
    reached = [*(each.own for each in fleet.all), OLD, LOST]
    for each in fleet.all:
        wait(lambda each=each: each.told("retained") == 1, each.host.name)  # type: ignore[misc]
        fleet.reaches(each, reached)
        assert re.search(reason, each.said()), each.said()
    # Leaving goes on: what is deleted in this history goes at once, and so do joins come.
    fleet.leave(OLD)
    fleet.join(peer(42))
    reached[-2:] = [LOST, peer(42)]
    for each in fleet.all:
        fleet.reaches(each, reached)
    # A new start knows of it.
    wait(lambda: b"10.5.42.0-24" in program.state.read_bytes())
    program.kill()
    program.start()
    wait(lambda: program.told("retained") == 1)
    fleet.reaches(program, reached)
    # It is back, as it was, or deleted by name.
    fleet.join(LOST)
    for each in fleet.all:
        wait(lambda each=each: each.told("retained") == 0)  # type: ignore[misc]
    fleet.leave(LOST)
    for each in fleet.all:
        fleet.reaches(each, [each for each in reached if each != LOST])


def test_a_service_that_was_down_meanwhile_tells_it_as_well(
    fleet: Programs, program: Program, tmp_path: Path
) -> None:
    """The same with nothing but the state on disk to know the former history by; with the time of
    retention over, the peer goes."""
    fleet.join(OLD)
    found = backup(fleet, tmp_path)
    fleet.join(LOST)
    fleet.settle()
    wait(lambda: b"10.5.41.0-24" in program.state.read_bytes())
    revision = revision_of(fleet)
    for each in fleet.all:
        each.kill()
    restore(fleet, found)
    advance(fleet, revision)
    fleet.leave(OLD)
    program.configure(retention=3600)
    program.start()
    wait(lambda: HISTORY in program.said(), "the word of it")
    assert re.search(NOT_THERE, program.said()), program.said()
    assert "1 peers, which it does not name, are kept for 3600 seconds" in program.said()
    # This one was there in both histories, and deleted since.
    wait(lambda: "10.5.40.0/24" not in program.ip("route"), "the end of what was deleted")
    assert "10.5.41.0/24" in program.ip("route")
    # It is not in etcd, so the time that it is kept for is all that keeps it.
    program.kill()
    program.configure(retention=1)
    program.start()
    wait(lambda: "10.5.41.0/24" not in program.ip("route"), "the end of the retention")
    wait(lambda: "not retained any longer" in program.said(), "the word of that")


def test_who_left_while_a_host_was_down_is_gone_at_once(fleet: Programs, program: Program) -> None:
    """The other side of it: in the same history a deletion can be shown, and nothing is kept."""
    fleet.join(OLD, LOST)
    fleet.settle()
    wait(lambda: b"10.5.41.0-24" in program.state.read_bytes())
    program.kill()
    fleet.leave(LOST)
    advance(fleet, revision_of(fleet))
    program.start()
    fleet.reaches(program, [*(each.own for each in fleet.all), OLD])
    assert program.told("retained") == 0
