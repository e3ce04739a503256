# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a program running on a host: systemd, or our own supervisor where there is none.

Both are used in the same way: ``read`` says which services there are, ``change`` changes them. Only
the ``definition`` of a service differs: it is a unit's text, or a command.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Sequence

from ..errors import FlatnetError
from ..host import files
from ..host.processes import CommandFailed, parent, run
from . import supervisor
from .plan import Service, ServiceChange

UNITS = "/etc/systemd/system"
RUN = "/run/flatnet"

_STOPPED_BY = 15.0
_PAUSE = 0.02
_LINES = 10


class ServiceFailed(FlatnetError):
    """A service cannot be started, stopped or asked about."""


class Systemd:
    """Units in /etc/systemd/system."""

    def path(self, name: str) -> str:
        """The file of a definition."""
        return os.path.join(UNITS, name)

    def read(self, names: Sequence[str]) -> list[Service]:
        """The services of these names as they are; ``running`` is never None."""
        answer = _systemctl("show", "--property=UnitFileState,ActiveState,SubState", *names)
        found = []
        for name, text in zip(names, answer.split("\n\n")):
            values = dict(line.partition("=")[::2] for line in text.split("\n"))
            found.append(
                Service(
                    name,
                    read_file(self.path(name)),
                    values.get("UnitFileState") == "enabled",
                    values.get("ActiveState") in ("active", "reloading") or _starts(values),
                )
            )
        return found

    def refuse_masked(self, names: Iterable[str]) -> None:
        """Raise ServiceFailed if root has masked one of the services: then it must never start."""
        for name in names:
            if os.path.realpath(self.path(name)) == os.devnull:
                raise ServiceFailed(
                    "%s is masked on this host; let it run with 'systemctl unmask %s'"
                    % (name, name)
                )

    def runs(self, name: str, pid: int) -> bool:
        """Whether this process is the main process of the service."""
        return _systemctl("show", "--property=MainPID", name).strip() == "MainPID=%d" % pid

    def change(self, changes: Iterable[ServiceChange]) -> None:
        """Make the changes. A service that is started is ready when this returns."""
        todo = list(changes)
        gone = [each.before.name for each in todo if not each.after.definition]
        if gone:
            _systemctl("disable", "--now", *gone)
            for name in gone:
                files.remove(self.path(name))
        kept = [each for each in todo if each.after.definition]
        for before, after, dummy in kept:
            if before.definition != after.definition:
                files.replace(self.path(after.name), after.definition.encode(), 0o644)
        # Always: a run that was cut short may have written units without it.
        _systemctl("daemon-reload")
        if gone:
            # Forget those that failed. systemctl complains of those that did not.
            run(["systemctl", "reset-failed", *gone])
        _systemctl_all("reenable", [c.after.name for c in kept if c.after.enabled and _redo(c)])
        _systemctl_all(
            "disable", [c.after.name for c in kept if c.before.enabled and not c.after.enabled]
        )
        _systemctl_all(
            "stop", [c.after.name for c in kept if c.before.running and c.after.running is False]
        )
        for each in kept:
            if each.restart and each.after.running is None:
                # Waits for its end. The program's own status says how it went.
                run(["systemctl", "start", each.after.name])
        started = [c.after.name for c in kept if c.after.running and _restarts(c)]
        try:
            _systemctl_all("restart", started)
        except (CommandFailed, ServiceFailed) as error:
            raise ServiceFailed("%s; %s" % (error, self.said(started))) from None

    def said(self, names: Sequence[str]) -> str:
        """The last lines that they logged."""
        chosen = ["--unit=" + name for name in names]
        said = _tail(run(["journalctl", "--no-pager", "--lines=%d" % _LINES, *chosen])[1])
        found = run(["systemctl", "show", "--property=DropInPaths", "--value", *names])[1].split()
        # Drop-ins of the administrator, unlike those of the distribution, may well be why.
        changed = [path for path in found if path.startswith(("/etc/", "/run/"))]
        return "its unit is changed by %s; %s" % (", ".join(changed), said) if changed else said


class Supervised:
    """Commands that supervisor.py keeps running; each has a definition in /run/flatnet.

    After a boot somebody else has to start them again: a program cannot see to that itself.
    """

    def __init__(self, program: str, python: str) -> None:
        self._program = program
        self._python = python

    def path(self, name: str) -> str:
        return os.path.join(RUN, name + ".json")

    def read(self, names: Sequence[str]) -> list[Service]:
        found = []
        for name in names:
            definition = read_file(self.path(name))
            up = supervisor.running(self.path(name)) is not None
            found.append(Service(name, definition, bool(definition), up))
        return found

    def refuse_masked(self, names: Iterable[str]) -> None:
        """There are no masks here."""

    def runs(self, name: str, pid: int) -> bool:
        """Whether this process is the main process of the service."""
        found = supervisor.running(self.path(name))
        return found is not None and parent(pid) == found.pid

    def change(self, changes: Iterable[ServiceChange]) -> None:
        for change in changes:
            path = self.path(change.after.name)
            starts = bool(change.after.running) and _restarts(change)
            if not change.after.running:
                self._stop(path)
            if not change.after.definition:
                # The definition last: as long as it is there, the next run knows of the rest.
                for each in (*_beside(path), path):
                    files.remove(each)
                continue
            if change.before.definition != change.after.definition:
                files.replace(path, change.after.definition.encode(), 0o644)
            if starts and not self._begin_anew(path):
                self._stop(path)
                self._start(path)

    def said(self, names: Sequence[str]) -> str:
        return _tail("\n".join(read_file(supervisor.log_path(self.path(name))) for name in names))

    def _start(self, path: str) -> None:
        # The program must not depend on the environment of whoever runs the playbook.
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"}
        code, output = run([self._python, "-I", self._program, path], env)
        if code:
            raise ServiceFailed(output.strip() or "the supervisor of %s does not start" % path)

    def _begin_anew(self, path: str) -> bool:
        """Have a supervisor that runs begin anew, so that the program's sockets stay open. Returns
        whether it did."""
        found = supervisor.running(path)
        if found is None or found.script != (self._python, self._program):
            return False
        with _process(path) as handle:
            if handle is None:
                return False
            signal.pidfd_send_signal(handle, signal.SIGHUP)
            until = time.monotonic() + _STOPPED_BY
            while time.monotonic() < until:
                if select.select([handle], [], [], _PAUSE)[0]:
                    return False
                now = supervisor.running(path)
                if now and now.times > found.times:
                    return True
        return False

    def _stop(self, path: str) -> None:
        with _process(path) as handle:
            if handle is None:
                return
            for what in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(handle, what)
                if select.select([handle], [], [], _STOPPED_BY)[0]:
                    return
            raise ServiceFailed(
                "the supervisor of %s does not end, not even by SIGKILL; see what it waits for"
                % path
            )


@contextlib.contextmanager
def _process(path: str) -> Iterator[int | None]:
    """A handle of the supervisor of a definition; None if there is none. Unlike a process id, it
    never becomes another process's."""
    found = supervisor.running(path)
    handle = None
    if found:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(found.pid)
    try:
        # If it had ended before the handle was made, the handle may be another process's.
        still = supervisor.running(path)
        yield handle if found and still and still.pid == found.pid else None
    finally:
        if handle is not None:
            os.close(handle)


def definition(
    command: Sequence[str], every: float = 0.0, pause: float = 0.0, sockets: int = 0
) -> str:
    """The text of a definition for supervisor.py, which says what the fields mean."""
    found = {"command": list(command), "every": every, "pause": pause}
    return json.dumps({**found, "sockets": sockets} if sockets else found) + "\n"


def has_systemd() -> bool:
    """Whether systemd runs this host: see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def _starts(values: dict[str, str]) -> bool:
    """Whether a unit is being started now, and does not only wait for its next start."""
    substate = values.get("SubState", "")
    return values.get("ActiveState") == "activating" and not substate.startswith("auto-restart")


def _redo(change: ServiceChange) -> bool:
    return not change.before.enabled or change.before.definition != change.after.definition


def _restarts(change: ServiceChange) -> bool:
    return (
        change.restart
        or not change.before.running
        or change.before.definition != change.after.definition
    )


def _systemctl_all(verb: str, names: Sequence[str]) -> None:
    if names:
        _systemctl(verb, *names)


def _systemctl(*arguments: str) -> str:
    code, output = run(["systemctl", *arguments])
    if code:
        raise ServiceFailed(
            "'systemctl %s' failed: %s"
            % (" ".join(arguments), output.strip() or "status %d" % code)
        )
    return output


def read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _beside(path: str) -> tuple[str, ...]:
    log = supervisor.log_path(path)
    return supervisor.pid_path(path), supervisor.notify_path(path), log, log + ".1"


def _tail(text: str) -> str:
    lines = text.strip().splitlines()[-_LINES:]
    return "it said: %s" % " | ".join(lines) if lines else "it said nothing"
