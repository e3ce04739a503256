# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync is installed on a host in memory: which steps there are, in which order they are
taken, and what comes of a run that is killed between two of them.

These stand beside the whole runs in tests/integration/install and tests/integration/attacks, which
have real files, processes and kernels. Here a run takes a millisecond, so all interruptions can be
tried.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import sync
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.installation import (
    Installation,
    NotReady,
    Program,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import (
    diff,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.settings import (
    DEFAULT_PATH,
    Etcd,
    Settings,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.install.fake_target import STATUS, VERSION, FakeTarget, Killed, mark, run, where

COMMAND = "/usr/local/sbin/flatnet-sync"
STATE = Settings().state_file
METRICS = "/run/metrics/flatnet.prom"
SETTINGS = Settings()
UNITS = {name: "[Unit] %s\n" % name for name in (*sync.MODES["service"], *sync.MODES["timer"])}


def present(
    target: FakeTarget,
    settings: Settings = SETTINGS,
    mode: str = "service",
    units: dict[str, str] = UNITS,
) -> Program:
    program = sync.Present(target, sync.Request(settings, mode, units))
    program.patience = 0.0  # a program in memory has written its status at once, or never does
    return program


@pytest.fixture(params=[False, True], ids=["supervised", "systemd"])
def target(request: pytest.FixtureRequest) -> FakeTarget:
    return FakeTarget(systemd=request.param)


@pytest.fixture
def running(target: FakeTarget) -> FakeTarget:
    """flatnet-sync runs as a service; what was done for that is forgotten."""
    run(present(target))
    target.done.clear()
    target.services.started.clear()
    return target


def service(target: FakeTarget) -> str:
    return sync.SYNC if target.systemd else "flatnet-sync"


# --- steps ----------------------------------------------------------------------------------------


def test_where_nothing_is_everything_is_a_step(target: FakeTarget) -> None:
    installation = Installation.observe(present(target))
    names = [sync.RESTORE, sync.SYNC] if target.systemd else ["flatnet-sync"]
    definitions = [each for name in names for each in (target.services.path(name), name)]
    assert where(installation) == ["package", COMMAND, DEFAULT_PATH, *definitions]
    assert all(step.before in ("", "none\n", "absent\n") for step in installation.steps)
    assert installation.restarts
    assert diff(installation.steps)[0] == {
        "before": "none\n",
        "after": VERSION + "\n",
        "before_header": "package",
        "after_header": "package",
    }


def test_where_everything_is_there_is_no_step(running: FakeTarget) -> None:
    again = run(present(running))
    assert again.steps == ()
    assert not again.restarts
    assert running.done == []


def test_check_mode_does_nothing(target: FakeTarget) -> None:
    before = target.state()
    assert Installation.observe(present(target)).steps
    assert target.state() == before
    assert target.done == []


def test_the_steps_are_taken_in_order(target: FakeTarget) -> None:
    """Nothing is started before all that it consists of is there. A mark stands all the while."""
    run(present(target))
    start = target.done.index("start " + service(target))
    assert target.done[0] == "write " + mark("sync")
    assert target.done[-1] == "remove " + mark("sync")
    for each in ("install the package", "write " + COMMAND, "write " + DEFAULT_PATH):
        assert target.done.index(each) < start
    assert start < len(target.done) - 1


# --- what starts it anew --------------------------------------------------------------------------


def test_other_settings_start_it_anew(running: FakeTarget) -> None:
    changed = run(present(running, SETTINGS._replace(ttl=60)))
    assert where(changed) == [DEFAULT_PATH, service(running)]
    assert changed.steps[-1].after.endswith(", started anew\n")
    assert changed.restarts
    assert running.services.started == [service(running)]


def test_of_the_units_only_those_that_start_it_are_started_anew() -> None:
    """The boot runs flatnet-restore, and whoever changes its unit need not start the service."""
    target = FakeTarget(systemd=True)
    run(present(target))
    target.services.started.clear()
    other = run(present(target, units={**UNITS, sync.RESTORE: "[Unit] another one\n"}))
    assert where(other) == [target.services.path(sync.RESTORE)]
    assert target.services.started == []
    assert not other.restarts
    run(present(target, SETTINGS._replace(ttl=60)))
    assert target.services.started == [sync.SYNC]


def test_another_definition_starts_it_anew(target: FakeTarget) -> None:
    """It does when the unit, or the command, is another one; the result says so."""
    run(present(target))
    mode, units = "timer", UNITS
    if target.systemd:
        mode, units = "service", {**UNITS, sync.SYNC: "[Unit] another one\n"}
    changed = run(present(target, mode=mode, units=units))
    assert changed.restarts
    assert changed.steps[-1].after.endswith(", started anew\n")
    assert run(present(target, mode=mode, units=units)).steps == ()


def test_what_a_timer_starts_is_run_once_when_it_is_new() -> None:
    target = FakeTarget(systemd=True)
    run(present(target, mode="timer"))
    assert target.services.started == [sync.ONCE, sync.TIMER]
    target.services.started.clear()
    run(present(target, SETTINGS._replace(ttl=60), mode="timer"))
    assert target.services.started == [sync.ONCE]


def test_restoring_only_is_run_each_time(running: FakeTarget) -> None:
    first = run(present(running, mode="none"))
    assert service(running) in where(first)
    assert run(present(running, mode="none")).steps == ()
    assert running.done[-1] == "run %s once" % COMMAND


def test_another_mode_leaves_nothing_of_the_one_before(target: FakeTarget) -> None:
    for mode in ("service", "timer", "none", "service"):
        run(present(target, mode=mode))
        fresh = FakeTarget(target.systemd)
        run(present(fresh, mode=mode))
        assert target.state() == fresh.state()


def test_changed_permissions_are_a_step(running: FakeTarget) -> None:
    content = running.text(DEFAULT_PATH)
    running.put(DEFAULT_PATH, content, 0o644, "user 1000")
    changed = run(present(running))
    (step,) = (each for each in changed.steps if each.where == DEFAULT_PATH)
    assert step.before == content + "mode 0644, user 1000's\n"
    assert step.after == content + "mode 0600, root's\n"
    assert changed.restarts


def test_another_version_starts_it_anew(running: FakeTarget) -> None:
    running.installed = "0.0.9-000000000000"
    assert where(run(present(running))) == ["package", service(running)]
    assert running.done.index("install the package") < len(running.done) - 1


# --- a program that does not run ------------------------------------------------------------------


def test_one_that_has_ended_is_started(running: FakeTarget) -> None:
    running.kill(service(running))
    changed = run(present(running))
    assert where(changed) == [service(running)]
    assert changed.steps[0].before == "enabled, not running\n"
    assert run(present(running)).steps == ()


@pytest.mark.parametrize("what", ["no status", "garbage", "another process", "long ago"])
def test_one_that_does_not_say_that_it_runs_is_started_anew(running: FakeTarget, what: str) -> None:
    found = json.loads(running.text(STATUS))
    if what == "no status":
        del running.files[STATUS]
    elif what == "garbage":
        running.put(STATUS, "[")
    elif what == "another process":
        running.put(STATUS, json.dumps({**found, "pid": running.new_process()}))
    else:
        running.put(STATUS, json.dumps({**found, "updated_monotonic": -86400.0}))
    changed = run(present(running))
    assert where(changed) == [service(running)]
    assert changed.restarts


def test_one_that_does_not_get_ready_is_an_error(target: FakeTarget) -> None:
    """The next run starts it anew, although all files are right by then."""
    target.services.hangs = True
    with pytest.raises(NotReady, match="it has not written its status yet"):
        run(present(target))
    assert target.exists(mark("sync"))
    target.services.hangs = False
    changed = run(present(target))
    assert where(changed) == [service(target)]
    assert not target.exists(mark("sync"))


def test_a_unit_that_is_not_given_changes_nothing() -> None:
    target = FakeTarget(systemd=True)
    with pytest.raises(InvalidInput, match=r"needs the text of flatnet-sync\.service"):
        run(present(target, units={sync.RESTORE: "[Unit]\n"}))
    assert target.done == []


# --- removal, and what settings leave behind ------------------------------------------------------


def test_removed_it_leaves_nothing(running: FakeTarget) -> None:
    gone = run(sync.Absent(running))
    assert {"package", COMMAND, DEFAULT_PATH, STATE, service(running)} <= set(where(gone))
    assert running.state() == FakeTarget(running.systemd).state()
    assert STATUS not in running.files
    assert run(sync.Absent(running)).steps == ()


def test_a_file_that_the_settings_name_no_more_is_removed(running: FakeTarget) -> None:
    run(present(running, SETTINGS._replace(metrics_file=METRICS)))
    assert running.exists(METRICS)
    assert METRICS in where(run(present(running)))
    assert not running.exists(METRICS)


def test_a_password_is_in_no_step(running: FakeTarget) -> None:
    secret = Settings(etcd=Etcd(username="flatnet", password="s3cr3t"))
    first = run(present(running, secret))
    other = run(present(running, secret._replace(etcd=secret.etcd._replace(password="s3cr3t2"))))
    assert "s3cr3t2" in running.text(DEFAULT_PATH)
    assert "s3cr3t" not in str(first.steps) + str(other.steps)
    assert '"password": "hidden"' in other.steps[0].before
    assert '"password": "another one"' in other.steps[0].after


# --- runs that are cut short ----------------------------------------------------------------------


def test_a_mark_starts_it_anew(running: FakeTarget) -> None:
    """Whatever it has: the mark may itself have been cut short."""
    for content in ("", "{", "[]", '{"files": 1}', '{"files": []}'):
        running.put(mark("sync"), content)
        assert where(run(present(running))) == [service(running)]
        assert not running.exists(mark("sync"))


#: What a task may ask for, one after the other.
ASKED = st.sampled_from(
    [
        ("service", SETTINGS),
        ("service", SETTINGS._replace(metrics_file=METRICS, ttl=60)),
        ("timer", SETTINGS),
        ("none", SETTINGS),
        ("absent", SETTINGS),
    ]
)


def asked(target: FakeTarget, mode: str, settings: Settings) -> Program:
    return sync.Absent(target) if mode == "absent" else present(target, settings, mode)


@given(
    systemd=st.booleans(),
    before=st.lists(ASKED, max_size=2),
    cut=st.lists(st.tuples(ASKED, st.integers(0, 12), st.booleans()), max_size=3),
    last=ASKED,
)
def test_interrupted_and_run_again_it_ends_in_the_same_state(
    systemd: bool,
    before: list[tuple[str, Settings]],
    cut: list[tuple[tuple[str, Settings], int, bool]],
    last: tuple[str, Settings],
) -> None:
    """Some runs come to their end, some are killed after any of their steps, some with the whole
    host, which loses its power; and the last one comes to its end. Then the host has what it would
    have had if nothing else had ever been run, and what runs was started after its settings were
    written."""
    target, fresh = FakeTarget(systemd), FakeTarget(systemd)
    for mode, settings in before:
        run(asked(target, mode, settings))
    for (mode, settings), steps, boots in cut:
        target.steps_left = steps
        with contextlib.suppress(Killed):
            run(asked(target, mode, settings))
        target.steps_left = None
        if boots:
            target.boot()
    run(asked(target, *last))
    run(asked(fresh, *last))
    assert target.state() == fresh.state()
    assert run(asked(target, *last)).steps == ()
    assert run(asked(target, *last)).restarts is False


@pytest.mark.parametrize("change", ["service", "timer", "none", "absent"])
def test_each_step_interrupted(target: FakeTarget, change: str) -> None:
    """The same for each single step of one change, so that none is left to chance. A program that
    goes on was started after the new settings were written."""
    settings = SETTINGS._replace(ttl=60)
    number = 0
    while True:
        tried = FakeTarget(target.systemd)
        run(present(tried))
        tried.done.clear()
        tried.steps_left = number
        try:
            run(asked(tried, change, settings))
            break
        except Killed:
            tried.steps_left = None
        run(asked(tried, change, settings))
        done = tried.done
        if change == "service":
            start = "start " + service(tried)
            assert last_index(done, start) > last_index(done, "write " + DEFAULT_PATH)
        fresh = FakeTarget(target.systemd)
        run(asked(fresh, change, settings))
        assert tried.state() == fresh.state(), "killed after %d steps: %s" % (number, done)
        number += 1
    assert number > 3


def last_index(done: list[str], what: str) -> int:
    return max((at for at, each in enumerate(done) if each == what), default=-1)
