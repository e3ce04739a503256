# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad luck with what is installed on a host: spoilt bytecode, programs that start again and again,
that hang, and that only seem to be there."""

from __future__ import annotations

import json
import os
import signal
import typing as t

import pytest

from tests.integration.install.test_sync import NETWORK, Installed, alive
from tests.lab import Lab
from tests.lab.waiting import wait


@pytest.fixture(scope="module")
def lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    built = lab_factory(hosts=1)
    built.etcd.put("/coreos.com/network/config", NETWORK)
    return built


@pytest.fixture
def running(lab: Lab) -> t.Iterator[Installed]:
    installed = Installed(lab, lab.hosts[0])
    installed.run()
    yield installed
    installed.run(state="absent")


def bytecode(installed: Installed, name: str) -> str:
    top = installed.host.etc / "flatnet/lib/flatnet-sync/current/flatnet/sync/__pycache__"
    (found,) = top.glob(f"{name}.*.pyc")
    return str(found)


def crash(installed: Installed) -> None:
    """End the program; started again, it ends at once, again and again."""
    program = installed.program()
    os.kill(program, signal.SIGKILL)
    log = installed.host.run / "flatnet/flatnet-sync.log"
    wait(lambda: log.read_text().count("it is started again") >= 2)


def test_spoilt_bytecode_is_made_anew(running: Installed) -> None:
    """A bit of a .pyc tips over on disk: Python runs it as it is, and the program crashes each time
    it is started. The next run sees it, check mode says it, and the program runs again."""
    path = bytecode(running, "agent")
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 100)
    crash(running)
    done = running.make()
    assert running.diff(done, "package")[0].endswith(
        "but sync/__pycache__/%s was changed\n" % os.path.basename(path)
    )
    assert done["restarted"]
    assert done["sync"]["connected"]
    assert alive(running.program())


@pytest.mark.parametrize("what", ["gone", "another's", "one more", "unknown"])
def test_bytecode_is_what_was_made_here(running: Installed, what: str) -> None:
    """It went missing, or somebody put something there, also for a source that does not exist; or
    nobody knows any more what it should be."""
    path = bytecode(running, "command")
    if what == "gone":
        os.unlink(path)
    elif what == "another's":
        os.chmod(path, 0o666)
    elif what == "one more":
        (
            running.host.etc / "flatnet/lib/flatnet-sync/current/flatnet/sync/__pycache__/x.pyc"
        ).touch()
    else:
        (running.host.etc / "flatnet/lib/flatnet-sync/current/bytecode").unlink()
    assert running.make()["restarted"]


def test_the_programs_write_no_bytecode(running: Installed) -> None:
    """Root's programs could, and what they wrote nobody would have compared with anything."""
    with open(running.host.etc / "flatnet/sbin/flatnet-sync") as file:
        assert file.readline().endswith(" -IB\n")


def test_a_program_that_crashes_again_and_again_is_told_of(running: Installed) -> None:
    """The program cannot start, though all of its files are right: here since what it imports is
    broken. Its supervisor lives, and that is not enough. One sentence with what it said."""
    # Nothing of ours, so no run puts it right.
    shadow = running.host.run / "flatnet/broken"
    shadow.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 3\n")
    shadow.chmod(0o755)
    arguments = {"python": "/run/flatnet/python"}
    link = running.host.run / "flatnet/python"
    link.symlink_to(os.path.realpath("/usr/bin/python3"))
    running.run(**arguments)
    link.unlink()
    link.symlink_to("broken")
    try:
        crash(running)
        for check in (True, False):
            result = running.attempt(check, **arguments)
            assert result["failed"] or result["changed"]
        assert result["failed"]
        assert "Traceback" not in result["msg"]
        assert "it is broken" in result["msg"]
    finally:
        link.unlink()
        shadow.unlink()


def test_a_status_that_another_process_left_does_not_count(running: Installed) -> None:
    """The program hangs at its start, beside a status that the one before it has left: the next run
    starts it anew, and says so."""
    program = running.program()
    status = running.host.run / "flatnet/status.json"
    left = json.loads(status.read_text())
    os.kill(program, signal.SIGKILL)
    second = running.program(other_than=program)
    wait(lambda: json.loads(status.read_text())["pid"] == second)
    os.kill(second, signal.SIGSTOP)
    status.write_text(json.dumps(left))
    done = running.make()
    assert running.diff(done, "flatnet-sync") == ("enabled, not running\n", "enabled, running\n")
    assert done["sync"]["pid"] == running.program()
    assert not alive(second)


def test_an_old_status_does_not_count(running: Installed) -> None:
    """The program hangs, and nobody watches it: what it said is too old."""
    program = running.program()
    os.kill(program, signal.SIGSTOP)
    status = running.host.run / "flatnet/status.json"
    found = json.loads(status.read_text())
    # As if it had hung for a day.
    found["updated_monotonic"] -= 86400
    status.write_text(json.dumps(found))
    done = running.make()
    assert running.diff(done, "flatnet-sync") == ("enabled, not running\n", "enabled, running\n")
    assert not alive(program)


def test_a_timer_whose_runs_fail_is_told_of(running: Installed) -> None:
    """With a timer nothing runs most of the time; its last run has to have said something."""
    running.run(mode="timer", check_interval=1)
    status = running.host.run / "flatnet/status.json"
    os.kill(running.supervisor, signal.SIGSTOP)
    found = json.loads(status.read_text())
    found["updated_monotonic"] -= 86400
    status.write_text(json.dumps(found))
    done = running.run(mode="timer", check_interval=1)
    assert done["changed"]
    assert done["restarted"]


def test_restoring_only_has_to_work_as_well(running: Installed) -> None:
    """Without a service nothing runs. What is to be restored has to have been written all the same,
    and a program that cannot do so is told of."""
    running.run(mode="none")
    status = running.host.run / "flatnet/status.json"
    status.unlink()
    status.mkdir()
    try:
        result = running.attempt(mode="none")
        assert result["failed"]
        assert "flatnet-sync once' has not written its status; it said: " in result["msg"]
        assert "Traceback" not in result["msg"]
    finally:
        status.rmdir()
