# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A resident program on a host: its package, its command, its files, and what keeps it running.

A ``Plan`` observes and tells the steps that are missing; ``carry_out`` takes them. What is special
to a program is in sync.py and relay.py beside it.

A program is started anew when something has changed that it reads only at its start, and not for
what another program consists of. A run that is cut short leaves a mark, so that the next one starts
the program anew although all files are right; a run that replaces the package under other programs
leaves theirs. The mark also has what was to go (``Rests``), which the settings tell no more once
they are replaced or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

from ..errors import FlatnetError
from ..host import files
from ..host.processes import ticks
from . import package, services
from .services import Change, Service, Supervised, Systemd


class NotReady(FlatnetError):
    """The program was started and does not say that it runs."""


class Step(NamedTuple):
    """One difference, as the user sees it."""

    where: str
    before: str
    after: str


class File(NamedTuple):
    """A file that root writes; an empty ``content`` is none. ``restarts``: the program reads it at
    its start, and not later."""

    path: str
    content: str
    mode: int = 0o644
    restarts: bool = True


class Rests(NamedTuple):
    """What the settings of before had that those to come do not have, by path or name."""

    files: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()

    def without(self, other: Rests) -> Rests:
        """Those that the other one does not have."""
        return Rests(*(mine - others for mine, others in zip(self, other)))

    def and_of(self, other: Rests) -> Rests:
        """Those of both."""
        return Rests(*(mine | others for mine, others in zip(self, other)))


def rests(program: str) -> Rests:
    """What a run that was cut short has left to remove."""
    try:
        found = json.loads(services.read_file(_mark(program)) or "{}")
        return Rests(*(frozenset(map(str, found.get(name, ()))) for name in Rests._fields))
    except (OSError, ValueError, TypeError, AttributeError):
        return Rests()


class Plan:
    """What is missing; ``steps`` is empty if nothing is.

    ``python`` None: nothing of the program is to be left. ``obsolete`` has the files to remove, and
    what else is to go, ``traces`` the files that nobody need be told of; ``first`` are steps that
    come before all others, and ``restart`` says whether one of them asks for that.
    """

    program = ""  # as package names it
    units: tuple[str, ...] = ()  # all that it may have with systemd
    starting: tuple[str, ...] = ()  # those of them that start it
    once: tuple[str, ...] = ()  # those that are run when they are new, and again by others

    def __init__(
        self,
        prefix: str,
        python: str | None,
        files: Sequence[File],
        obsolete: Rests,
        traces: Sequence[str] = (),
        first: Sequence[Step] = (),
        restart: bool = False,
        planned: str | None = None,
    ) -> None:
        self._prefix = prefix
        self._python = python
        self.command = package.launcher_path(prefix, self.program)
        self._manager = _manager(prefix, python)
        text = package.launcher(prefix, python, self.program) if python else ""
        self._files = [File(self.command, text, 0o755), *files]
        self.steps = list(first)
        before = package.observe(prefix)
        keeps = package.others(prefix, self.program)
        version = package.version() if python else (str(before) if keeps else "none")
        # In check mode another program's task would have put it in place by now.
        shown = planned or str(before)
        self._installs = bool(python) and shown != version
        self._stale = before.stale
        self._add("package", "%s\n" % shown, "%s\n" % version)
        restart = restart or os.path.exists(_mark(self.program)) or self.program in before.stale
        for file in self._files:
            restart = (self._add_file(file) and file.restarts) or restart
        self._traces = traces
        self._rests = obsolete
        self._obsolete = sorted(filter(os.path.lexists, obsolete.files))
        for path in self._obsolete:
            self._add(path, "present\n", "absent\n")
        self._changes = self._plan_services(restart)
        self.restarts = any(
            each.restart or (each.after.running and not each.before.running)
            for each in self._changes
        )

    @property
    def systemd(self) -> bool:
        """Whether systemd keeps the program running."""
        return isinstance(self._manager, Systemd)

    def services(self) -> list[Service]:
        """Those that are wanted, if anything is."""
        raise NotImplementedError

    def shown(self, file: File, before: str) -> tuple[str, str]:
        """What a file has and is to have, as the user may see it."""
        return before, file.content

    def _add(self, where: str, before: str, after: str) -> None:
        if before != after:
            self.steps.append(Step(where, before, after))

    def _add_file(self, file: File) -> bool:
        """A step for a file whose content, permissions or owner differ; whether there is one."""
        before = services.read_file(file.path)
        present = os.path.lexists(file.path)
        if before == file.content and (_is_private(file) if file.content else not present):
            return False
        texts = self.shown(file, before)
        if file.content:
            wanted = "mode %04o, root's\n" % file.mode
            texts = (texts[0] + _permissions(file.path), texts[1] + wanted)
        elif present and not before:
            texts = ("present\n", "absent\n")
        self._add(file.path, *texts)
        return True

    def _plan_services(self, restart: bool) -> list[Change]:
        wanted = {each.name: each for each in (self.services() if self._python else ())}
        name = package.COMMANDS[self.program]
        names, starting = (self.units, self.starting) if self.systemd else ((name,), (name,))
        changes = []
        for now in self._manager.read(names):
            after = wanted.get(now.name, Service(now.name))
            unknown = after.running is None or not (after.definition or now.definition)
            before = now._replace(running=after.running) if unknown else now
            # A timer goes on; what it starts next is the new one.
            again = restart and bool(after.definition) and after.name in starting
            if before == after and not again:
                if after.name != self.speaker or self._speaks():
                    continue
                # It is there, or starts again and again, and the program says nothing.
                again = after.running is None
                before = before if again else before._replace(running=False)
            again = again or (after.name in self.once and not before.definition)
            changes.append(Change(before, after, again))
            self._add(self._manager.path(after.name), before.definition, after.definition)
            anew = ", started anew" if again and (before.running or after.running is None) else ""
            self._add(after.name, "%s\n" % str(before), "%s%s\n" % (str(after), anew))
        return changes

    def _speaks(self) -> bool:
        """Whether the program says that it runs. A start may be under way, as after a boot."""
        try:
            self._await(self.silence, 0)
        except NotReady:
            return False
        return True

    # --- act --------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Take the steps."""
        mask = os.umask(0o022)
        try:
            for file in self._files:
                files.clean(file.path)
            if self._python is None:
                self._remove()
            elif self.steps:
                self._put(self._python)
        except OSError as error:
            raise FlatnetError("%s: %s" % (error.filename, error.strerror)) from None
        finally:
            os.umask(mask)

    def prepare(self) -> None:
        """What has to be there before the rest."""

    def dismantle(self) -> None:
        """What has to go after the program has ended, and before its files."""

    def finish(self) -> None:
        """What may go once all else is as it should be."""

    # The service whose program says whether it runs; empty if none does.
    speaker = ""

    def silence(self, begin: int) -> str:
        """Why the program does not run; empty if it does. It runs if a live process of the service
        said so, not too long ago, and this process was born in tick ``begin`` or later."""
        raise NotImplementedError

    def problem(self, begin: int) -> str:
        """Why the program is not as wanted; empty if it is."""
        return self.silence(begin)

    patience = 15.0

    def _put(self, python: str) -> None:
        self._leave_mark()
        self.prepare()
        if self._installs:
            for other in package.others(self._prefix, self.program):
                if other in self._stale and not os.path.exists(_mark(other)):
                    files.replace(_mark(other), b"", 0o644)
            package.install(self._prefix, python)
        for file in self._files:
            if file.content and not _is(file):
                files.replace(file.path, file.content.encode(), file.mode)
        begin = ticks() if self.restarts else 0
        self._manager.change(self._changes)
        package.clean(self._prefix)
        for path in (*self._obsolete, *(file.path for file in self._files if not file.content)):
            files.remove(path)
        self.wait(begin)
        self.finish()
        files.remove(_mark(self.program))

    def _leave_mark(self) -> None:
        found = {name: sorted(each) for name, each in self._rests._asdict().items()}
        files.replace(_mark(self.program), json.dumps(found).encode(), 0o644)

    def wait(self, begin: int) -> None:
        """Until the program is ready; raises NotReady."""
        self._await(self.problem, begin)

    def _await(self, asked: Callable[[int], str], begin: int) -> None:
        until = time.monotonic() + self.patience
        while True:
            problem = asked(begin)
            if not problem:
                return
            if time.monotonic() > until:
                raise NotReady(
                    "%s does not get ready within %d seconds: %s; %s"
                    % (package.COMMANDS[self.program], self.patience, problem, self.said())
                )
            time.sleep(_PAUSE)

    def said(self) -> str:
        """The last lines that the program logged."""
        return self._manager.said([each.name for each in self.services()])

    def _remove(self) -> None:
        if self.steps:
            self._leave_mark()
        self._manager.change(self._changes)
        self.dismantle()
        paths = [*self._traces, *self._obsolete, *(file.path for file in self._files)]
        for path in paths:
            files.remove(path)
        package.remove(self._prefix, self.program)
        self.finish()
        files.remove(_mark(self.program))
        for path in paths:
            # Only if it is empty.
            if os.path.basename(os.path.dirname(path)) == package.NAME:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(path))


_PAUSE = 0.05


def _mark(program: str) -> str:
    return os.path.join(services.RUN, program + ".changing")


def _manager(prefix: str, python: str | None) -> Systemd | Supervised:
    if services.has_systemd():
        return Systemd()
    program = os.path.join(package.current(prefix), package.NAME, package.SUPERVISOR)
    return Supervised(program, python or "")


def _is(file: File) -> bool:
    return services.read_file(file.path) == file.content and _is_private(file)


def _is_private(file: File) -> bool:
    """Whether it has its permissions and is root's."""
    found = os.lstat(file.path)
    return (
        stat.S_ISREG(found.st_mode)
        and stat.S_IMODE(found.st_mode) == file.mode
        and found.st_uid == os.geteuid()
    )


def _permissions(path: str) -> str:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    owner = "root" if found.st_uid == os.geteuid() else "user %d" % found.st_uid
    return "mode %04o, %s's\n" % (stat.S_IMODE(found.st_mode), owner)
