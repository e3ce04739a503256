# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program on a host: its package, its command, its files, and what keeps it running.

    installation = Installation.observe(program)   looks at the host, and plans
    installation.steps                             what differs, for the user
    installation.apply()                           takes the steps

Check mode stops before ``apply``. plan.py compares; what is special to a program is in sync.py and
relay.py.

A run may be cut short at any moment, and the next run has to make up for it. So a run writes a mark
first, and removes it last. A run that finds a mark starts the program anew, although all files may
be right. The mark also names what belongs to the program, because the settings that named it may be
replaced or removed by then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any, Callable

from ..errors import FlatnetError
from . import package
from .plan import Belongings, Desired, File, Observed, Plan, Step, plan
from .target import Target

_PAUSE = 0.05


class NotReady(FlatnetError):
    """The program was started, and does not say that it runs."""


class Program:
    """What is special to one program. Each subclass has what it takes to install it, or to remove
    it. The methods below are called in the order in which they stand here."""

    name = ""  # as package.COMMANDS has it
    # All services that it may have with systemd. Those of them that start it. Those of these that
    # are run when they are new, and later by a timer.
    units: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    # The service whose program says that it runs; empty if none does.
    speaker = ""
    # Seconds until a program that was started has to say that it runs.
    patience = 15.0
    # Whether the program is removed.
    removed = False

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def command_name(self) -> str:
        return package.COMMANDS[self.name]

    def desired(self, unfinished: Belongings) -> Desired:
        """What the host should have. ``unfinished`` is what belonged to the program in a run that
        was cut short. Looks at the host as far as this depends on what is there."""
        raise NotImplementedError

    def silence(self, begin: int) -> str:
        """Why the program is not known to run; empty if it is. It runs if a live process of the
        service said so, not too long ago, and this process was born in tick ``begin`` or later."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the package, the files and the services need."""

    def inform(self, restarted: bool) -> None:
        """Tell a program that goes on that its files have changed."""

    def problem(self, begin: int) -> str:
        """Why the program is not as desired; empty if it is."""
        return self.silence(begin)

    def dismantle(self) -> None:
        """When it is removed, and has ended: remove what else belongs to it, before its files."""

    def finish(self) -> None:
        """All else is done: remove what nobody needs any more."""

    def complete(self) -> None:
        """The end of each run, even if there were no steps."""

    def outcome(self) -> dict[str, Any]:
        """What the program says about itself, for the module's result."""
        return {}


class Installation:
    """One program on this host, as it was observed, and what has to change."""

    def __init__(self, program: Program, desired: Desired, planned: Plan) -> None:
        self._program = program
        self._target = program.target
        self._desired = desired
        self._plan = planned

    @classmethod
    def observe(cls, program: Program) -> Installation:
        """Look at the host."""
        target = program.target
        unfinished = _read_mark(target, program.name)
        desired = _in_full(program.desired(unfinished or Belongings()), program)
        target.manager.refuse_masked([service.name for service in desired.services])
        names = program.units if target.systemd else (program.command_name,)
        observed = Observed(
            version=str(target.package()),
            files={file.path: target.file(file.path) for file in desired.files},
            present=frozenset(filter(target.exists, desired.leftovers.files)),
            services=tuple(target.manager.read(names)),
            definitions={name: target.manager.path(name) for name in names},
            interrupted=unfinished is not None,
        )
        made = plan(desired, observed)
        changed = {change.after.name for change in made.services}
        # If its service stays as it is, the program has to run already. A start may be under way.
        if program.speaker and program.speaker not in changed and _wait(program, program.silence):
            made = plan(desired, observed._replace(silent=program.speaker))
        return cls(program, desired, made)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What has to change; empty if nothing has."""
        return self._plan.steps

    @property
    def restarts(self) -> bool:
        """Whether the program is started, for the first time or anew."""
        return self._plan.restarts

    @property
    def command(self) -> str:
        """The path of the program's command."""
        return self._target.command

    def outcome(self) -> dict[str, Any]:
        """What the program says about itself, for the module's result."""
        return self._program.outcome()

    def apply(self) -> None:
        """Take the steps. Raises FlatnetError; then the next run makes up for the rest."""
        mask = os.umask(0o022)
        try:
            for file in self._desired.files:
                self._target.remove_drafts(file.path)
            if self._program.removed:
                # Even if there is no step, something may be left that no step mentions.
                self._remove()
            elif self.steps:
                self._install()
            else:
                # A run that was cut short may have done all but this.
                self._target.remove(_mark(self._program.name))
        except OSError as error:
            raise FlatnetError("%s: %s" % (error.filename, error.strerror)) from None
        finally:
            os.umask(mask)
        self._program.complete()

    def _install(self) -> None:
        target, program, desired = self._target, self._program, self._desired
        # What this run makes may be what the next one has to remove.
        _write_mark(target, program.name, desired.leftovers | desired.own)
        program.prepare()
        if self._plan.installs:
            target.install_package()
        for file in desired.files:
            if file.content and not file.shared and not target.file(file.path).fits(file):
                target.write(file)
        begin = target.ticks() if self.restarts else 0
        target.manager.change(self._plan.services)
        target.remove_versions()
        self._remove_files(
            [*self._plan.gone, *(file.path for file in desired.files if not file.content)]
        )
        program.inform(self.restarts)
        problem = _wait(program, program.problem, begin)
        if problem:
            said = target.manager.said([service.name for service in desired.services])
            raise NotReady(
                "%s is not ready after %d seconds: %s; %s"
                % (program.command_name, program.patience, problem, said)
            )
        program.finish()
        target.remove(_mark(program.name))

    def _remove(self) -> None:
        target, program, desired = self._target, self._program, self._desired
        if self.steps:
            _write_mark(target, program.name, desired.leftovers)
        target.manager.change(self._plan.services)
        program.dismantle()
        paths = [*desired.traces, *self._plan.gone, *(file.path for file in desired.files)]
        self._remove_files(paths)
        target.remove_program()
        program.finish()
        target.remove(_mark(program.name))
        for folder in map(os.path.dirname, paths):
            if os.path.basename(folder) == package.NAME:
                target.remove_empty_folder(folder)

    def _remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._target.remove(path)


def _wait(program: Program, problem: Callable[[int], str], begin: int = 0) -> str:
    """Until there is no problem, or the program's time is over; the problem that is left."""
    until = time.monotonic() + program.patience
    while True:
        found = problem(begin)
        if not found or time.monotonic() > until:
            return found
        time.sleep(_PAUSE)


def _in_full(desired: Desired, program: Program) -> Desired:
    """With what all programs have: the package, a command, and a service that starts it."""
    target = program.target
    if program.removed:
        text, version = "", "none"
    else:
        text, version = target.launcher(), target.version()
    command = File(target.command, text, 0o755)
    return desired._replace(
        files=(command, *desired.files),
        version=version,
        starting=program.starting if target.systemd else (program.command_name,),
        once=program.once,
    )


# --- the mark of a run that is under way ----------------------------------------------------------


# Not in /run: a host may lose its power in the middle of a run. What the run had, such as a user or
# a file that only former settings named, is still there after the boot, and only the mark says so.
_MARKS = "/etc/flatnet"


def _mark(program: str) -> str:
    return os.path.join(_MARKS, program + ".changing")


def _write_mark(target: Target, program: str, belongings: Belongings) -> None:
    found = {name: sorted(each) for name, each in belongings._asdict().items()}
    target.write(File(_mark(program), json.dumps(found)))


def _read_mark(target: Target, program: str) -> Belongings | None:
    """What belonged to the program in a run that was cut short; None if none was."""
    if not target.exists(_mark(program)):
        return None
    try:
        found = json.loads(target.text(_mark(program)) or "{}")
        return Belongings(
            *(frozenset(map(str, found.get(name, ()))) for name in Belongings._fields)
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return Belongings()
