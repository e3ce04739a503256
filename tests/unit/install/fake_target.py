# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in memory that programs are installed on: its files, its package, its services.

It stands for ``Target``, which is the only way in which an installation looks at a host or changes
it. A run on it can be killed after each step, as often as hypothesis likes. That the real one does
what this one does is for the whole runs to show, in tests/integration/install and
tests/integration/attacks.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any, Callable

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.installation import (
    Installation,
    Program,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.package import (
    Installed,
    launcher_path,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import (
    File,
    FoundFile,
    Service,
    ServiceChange,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.target import Target
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.settings import (
    DEFAULT_PATH,
    parse,
)

VERSION = "0.1.0-3fb0c8d2a1e4"
STATUS = "/run/flatnet/status.json"


class Killed(BaseException):
    """The run is killed here."""


class FakeServices:
    """Services that systemd, or our supervisor, would keep. One that starts is another process from
    then on, which writes its status at once unless the program ``hangs``."""

    def __init__(self, target: FakeTarget) -> None:
        self._target = target
        self.found: dict[str, Service] = {}
        self.started: list[str] = []
        self.pids: dict[str, int] = {}
        self.hangs = False

    def path(self, name: str) -> str:
        return "/etc/systemd/system/" + name if self._target.systemd else "/run/%s.json" % name

    def read(self, names: Sequence[str]) -> list[Service]:
        return [self.found.get(name, Service(name)) for name in names]

    def refuse_masked(self, names: Sequence[str]) -> None:
        """Nothing is masked here."""

    def runs(self, name: str, pid: int) -> bool:
        return self.pids.get(name) == pid

    def said(self, names: Sequence[str]) -> str:
        return "%s said nothing" % " and ".join(names)

    def change(self, changes: Sequence[ServiceChange]) -> None:
        for before, after, restart in changes:
            name = after.name
            if not after.running:
                self.stop(name)
            if not after.definition:
                self._target.step("remove service " + name)
                self.found.pop(name, None)
                continue
            running = after.running and name in self.pids
            self._target.step("define " + name)
            self.found[name] = after._replace(running=running)
            if after.running is None and restart:
                self.start(name)
                self.stop(name)
            elif after.running and (restart or not running or before != after):
                self.start(name)

    def start(self, name: str) -> None:
        self._target.step("start " + name)
        self.started.append(name)
        self.pids[name] = self._target.new_process()
        self.found[name] = self.found[name]._replace(running=True)
        if not self.hangs:
            self._target.at_start(self.pids[name])

    def stop(self, name: str) -> None:
        if name in self.pids:
            self._target.step("stop " + name)
            del self.pids[name]
            self.found[name] = self.found[name]._replace(running=False)


class FakeTarget(Target):
    """``done`` has what was changed, in order; ``steps_left`` is how many more of that a run may do
    before it is killed."""

    def __init__(self, systemd: bool = False, program: str = "sync") -> None:
        self.systemd = systemd
        self._program = program
        self.services = FakeServices(self)
        self.manager = self.services
        self.files: dict[str, FoundFile] = {}
        self.folders: set[str] = set()
        # Users, and whether we have made them.
        self.users: dict[str, bool] = {}
        # What the program does at its start, given its process.
        self.at_start: Callable[[int], None] = self.write_status
        self.installed: str | None = None
        self.done: list[str] = []
        self.steps_left: int | None = None
        # Processes by number, and the tick in which each was born.
        self._clock = 1000
        self._born: dict[int, int] = {}

    def step(self, what: str) -> None:
        if self.steps_left is not None:
            if not self.steps_left:
                raise Killed
            self.steps_left -= 1
        self.done.append(what)

    def state(self) -> dict[str, Any]:
        """All that a run can leave on the host, but for which process it is that runs."""
        return {
            "files": {path: each for path, each in self.files.items() if path != STATUS},
            "package": self.installed,
            "services": self.services.found,
            "running": set(self.services.pids),
            "users": self.users,
        }

    def put(self, path: str, content: str, mode: int = 0o644, owner: str = "root") -> None:
        """Somebody else writes a file."""
        self.files[path] = FoundFile(content, True, True, mode, owner)

    def write_status(self, pid: int) -> None:
        """What flatnet-sync writes soon after its start: its status, and what its settings name."""
        found = {"pid": pid, "born": self._born[pid], "updated_monotonic": time.monotonic()}
        self.put(STATUS, json.dumps(found))
        settings = parse(json.loads(self.text(DEFAULT_PATH)))
        self.put(settings.state_file, "what a boot restores")
        if settings.metrics_file:
            self.put(settings.metrics_file, "flatnet_connected 1")

    def new_process(self) -> int:
        self._clock += 1
        self._born[self._clock] = self._clock
        return self._clock

    def kill(self, name: str) -> None:
        """A program ends, and nothing starts it again."""
        del self._born[self.services.pids.pop(name)]
        self.services.found[name] = self.services.found[name]._replace(running=False)

    def boot(self) -> None:
        """The host loses its power and comes up again: what is on disk is there, what systemd
        starts at boot runs."""
        self.steps_left = None
        self.files = {
            path: each for path, each in self.files.items() if not path.startswith("/run/")
        }
        self.services.pids.clear()
        self._born.clear()
        if not self.systemd:
            self.services.found.clear()  # they are in /run
        for name, each in self.services.found.items():
            if each.running is not None:
                self.services.found[name] = each._replace(running=False)
                if each.enabled:
                    self.services.start(name)

    # --- as Target --------------------------------------------------------------------------------

    @property
    def command(self) -> str:
        return launcher_path("/usr/local", self._program)

    def launcher(self) -> str:
        return "start %s\n" % self._program

    def text(self, path: str) -> str:
        return self.files.get(path, FoundFile()).content

    def file(self, path: str) -> FoundFile:
        return self.files.get(path, FoundFile())

    def exists(self, path: str) -> bool:
        return path in self.files

    def write(self, file: File) -> None:
        self.step("write " + file.path)
        self.put(file.path, file.content, file.mode)

    def remove(self, path: str) -> None:
        if path in self.files:
            self.step("remove " + path)
            del self.files[path]

    def remove_drafts(self, path: str) -> None:
        """There are none: a file is written in one step."""

    def make_folder(self, path: str) -> None:
        self.folders.add(path)

    def remove_empty_folder(self, path: str) -> None:
        self.folders.discard(path)

    def remove_folder(self, path: str) -> None:
        self.folders.discard(path)

    def has_user(self, name: str) -> bool:
        return name in self.users

    def has_own_user(self, name: str) -> bool:
        return self.users.get(name, False)

    def make_user(self, name: str) -> None:
        if name not in self.users:
            self.step("make user " + name)
            self.users[name] = True

    def remove_user(self, name: str) -> None:
        if self.has_own_user(name):
            self.step("remove user " + name)
            del self.users[name]

    def make_folder_of(self, path: str, user: str) -> None:
        assert user in self.users
        self.folders.add(path)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def version(self) -> str:
        return VERSION

    def package(self) -> Installed:
        return Installed(self.installed, ())

    def install_package(self) -> None:
        self.step("install the package")
        self.installed = VERSION

    def remove_versions(self) -> None:
        pass

    def remove_program(self) -> None:
        self.remove(self.command)
        if self.installed:
            self.step("remove the package")
            self.installed = None

    def ticks(self) -> int:
        return self._clock + 1

    def born(self, pid: int) -> int | None:
        return self._born.get(pid)

    def run(self, command: list[str]) -> str:
        """A program that is run to its end."""
        self.step("run " + " ".join(command))
        if not self.services.hangs:
            self.at_start(self.new_process())
        return ""


def mark(program: str) -> str:
    return "/etc/flatnet/%s.changing" % program


def run(program: Program) -> Installation:
    """Observe and apply, as a module does."""
    installation = Installation.observe(program)
    installation.apply()
    return installation


def where(installation: Installation) -> list[str]:
    return [step.where for step in installation.steps]
