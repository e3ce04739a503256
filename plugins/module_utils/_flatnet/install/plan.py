# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change on a host so that a program is installed as desired.

Pure: ``plan`` compares two values and returns a third one. installation.py looks at the host first,
and takes the steps afterwards.

    Desired   what the host should have ---+
                                           +--> Plan: the steps, as --diff shows them
    Observed  what the host has -----------+
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Callable, NamedTuple

# Before and after of a file, as the user may see them.
Shown = Callable[[str, str], tuple[str, str]]


class Step(NamedTuple):
    """One thing on the host, before and after, as the user reads it."""

    where: str
    before: str
    after: str


def diff(steps: Iterable[Step]) -> list[dict[str, str]]:
    """Ansible's diff: one item for each step."""
    return [
        {
            "before": step.before,
            "after": step.after,
            "before_header": step.where,
            "after_header": step.where,
        }
        for step in steps
    ]


def presence(where: str, before: bool, after: bool) -> Step:
    """The step of a thing of which the user is told only whether it is there."""
    words = ("absent\n", "present\n")
    return Step(where, words[before], words[after])


def in_full(before: str, after: str) -> tuple[str, str]:
    """The user may see all of a file."""
    return before, after


class File(NamedTuple):
    """A file that root writes. With an empty ``content`` it is removed.

    ``restarts``: the program reads the file only when it starts. ``show`` hides what the user must
    not see, such as a password. ``shared``: others write it too; the program's ``prepare`` writes
    it, under the lock that they take for it.
    """

    path: str
    content: str
    mode: int = 0o644
    restarts: bool = True
    show: Shown = in_full
    shared: bool = False


class FoundFile(NamedTuple):
    """A file as it is on the host. ``regular`` is false for a directory or a symbolic link."""

    content: str = ""
    present: bool = False
    regular: bool = False
    mode: int = 0
    owner: str = ""

    def fits(self, file: File) -> bool:
        """Whether nothing has to change."""
        if self.content != file.content:
            return False
        if not file.content:
            return not self.present
        return self.regular and (self.mode, self.owner) == (file.mode, "root")


class Service(NamedTuple):
    """A unit of systemd, or a command that our supervisor keeps running.

    ``definition`` is the unit's text, or the command; it is empty if there is no such service.
    ``enabled``: it is started at boot. ``running`` is None if we do not manage whether it runs,
    because a timer starts it.
    """

    name: str
    definition: str = ""
    enabled: bool = False
    running: bool | None = False

    def __str__(self) -> str:
        if not self.definition:
            return "absent"
        words = ["enabled" if self.enabled else "not enabled"]
        if self.running is not None:
            words.append("running" if self.running else "not running")
        return ", ".join(words)


class ServiceChange(NamedTuple):
    """One service before and after. ``restart``: it is started anew even if it stays as it is. If
    we do not manage whether it runs, it is run once now."""

    before: Service
    after: Service
    restart: bool = False

    @property
    def starts(self) -> bool:
        """Whether the program is started, for the first time or anew."""
        return self.restart or (bool(self.after.running) and not self.before.running)


class Belongings(NamedTuple):
    """What belongs to a program and to nobody else, by path or name."""

    files: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()

    def __or__(self, other: Belongings) -> Belongings:
        return Belongings(*(mine | others for mine, others in zip(self, other)))

    def __sub__(self, other: Belongings) -> Belongings:
        return Belongings(*(mine - others for mine, others in zip(self, other)))


class Desired(NamedTuple):
    """What the host should have of a program.

    ``starting`` are the services that start the program. ``once`` are those of them that are run
    when they are new, and later by a timer. ``own`` is what the program has besides these files.
    ``leftovers`` is what it had with earlier settings, and is removed.

    ``steps`` are those that only the program itself knows of, such as a device or a user; they come
    first. ``restart``: the program is started anew even if nothing else has changed. ``traces`` are
    files that are removed with the program, and that no step mentions.
    """

    files: tuple[File, ...] = ()
    services: tuple[Service, ...] = ()
    starting: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    own: Belongings = Belongings()
    leftovers: Belongings = Belongings()
    traces: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    restart: bool = False
    version: str = "none"


class Observed(NamedTuple):
    """What the host has of it.

    ``present`` are those of the leftovers' files that are there. ``definitions`` are the paths of
    the services' definitions. ``interrupted``: an earlier run was cut short. ``silent`` is the
    service that should run, if its program does not say that it runs.
    """

    version: str
    files: Mapping[str, FoundFile]
    present: frozenset[str]
    services: tuple[Service, ...]
    definitions: Mapping[str, str]
    interrupted: bool = False
    silent: str = ""


class Plan(NamedTuple):
    """What has to change; nothing if there are no ``steps``.

    ``gone`` are files that leave with the settings that named them. ``installs``: the package is
    put in place.
    """

    steps: tuple[Step, ...]
    services: tuple[ServiceChange, ...]
    gone: tuple[str, ...]
    installs: bool

    @property
    def restarts(self) -> bool:
        return any(change.starts for change in self.services)


def plan(desired: Desired, observed: Observed) -> Plan:
    """What makes ``observed`` as ``desired``.

    The program is started anew if something has changed that it reads only when it starts, and
    after a run that was cut short, since nobody knows how far that run came.
    """
    steps = list(desired.steps)
    installs = observed.version != desired.version
    restart = desired.restart or observed.interrupted or installs
    steps.append(Step("package", observed.version + "\n", desired.version + "\n"))
    for file in desired.files:
        found = observed.files[file.path]
        if not found.fits(file):
            steps.append(_file_step(file, found))
            restart = restart or file.restarts
    gone = tuple(sorted(observed.present))
    steps += [presence(path, True, False) for path in gone]
    wanted = {service.name: service for service in desired.services}
    changes = []
    for before in observed.services:
        after = wanted.get(before.name, Service(before.name))
        change = _service_change(
            before,
            after,
            starts=after.name in desired.starting,
            restart=restart,
            silent=after.name == observed.silent,
            once=after.name in desired.once,
        )
        if change:
            changes.append(change)
            steps += _service_steps(change, observed.definitions[after.name])
    return Plan(
        tuple(step for step in steps if step.before != step.after),
        tuple(changes),
        gone,
        installs,
    )


def _file_step(file: File, found: FoundFile) -> Step:
    before, after = file.show(found.content, file.content)
    if file.content:
        if found.present:
            before += _permissions(found.mode, found.owner)
        return Step(file.path, before, after + _permissions(file.mode, "root"))
    if found.content:
        return Step(file.path, before, after)
    return presence(file.path, found.present, False)


def _permissions(mode: int, owner: str) -> str:
    return "mode %04o, %s's\n" % (mode, owner)


def _service_change(
    found: Service, after: Service, starts: bool, restart: bool, silent: bool, once: bool
) -> ServiceChange | None:
    """None if the service stays as it is and goes on. ``starts``: it starts the program."""
    # Whether it runs is not compared if we do not manage that, or if there is no such service.
    compared = after.running is not None and bool(after.definition or found.definition)
    before = found if compared else found._replace(running=after.running)
    restart = restart and starts and bool(after.definition)
    if before == after and not restart:
        if not silent:
            return None
        # It runs, or starts and ends again and again, and its program does not say that it runs.
        if after.running is None:
            restart = True
        else:
            before = before._replace(running=False)
    if starts and after.running and before.running:
        # Another definition starts it anew.
        restart = restart or before.definition != after.definition
    return ServiceChange(before, after, restart or (once and not before.definition))


def _service_steps(change: ServiceChange, path: str) -> list[Step]:
    before, after, restart = change
    anew = restart and (before.running or after.running is None)
    return [
        Step(path, before.definition, after.definition),
        Step(after.name, str(before) + "\n", str(after) + (", started anew\n" if anew else "\n")),
    ]
