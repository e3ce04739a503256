# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that a program is installed on: its files, the package, and what keeps programs running.

An installation looks at the host and changes it through one ``Target``, but for what only one
program has, such as the relay's device. Unit tests have a target of their own, without a host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from typing import Protocol

from ..errors import InvalidInput
from ..host import files, processes, users
from ..host.lock import locked
from . import package, services
from .plan import File, FoundFile, Service, ServiceChange


class Manager(Protocol):
    """What keeps programs running: services.Systemd or services.Supervised."""

    def path(self, name: str) -> str: ...

    def read(self, names: Sequence[str]) -> list[Service]: ...

    def refuse_masked(self, names: Sequence[str]) -> None: ...

    def runs(self, name: str, pid: int) -> bool: ...

    def change(self, changes: Sequence[ServiceChange]) -> None: ...

    def said(self, names: Sequence[str]) -> str: ...


class Target:
    """``prefix``: where programs are. ``program``: the one that is installed. ``python``: the
    interpreter that runs it; empty if nothing is to be run."""

    def __init__(self, prefix: str, program: str, python: str = "") -> None:
        self._prefix = prefix
        self._program = program
        self._python = python
        self.systemd = services.has_systemd()
        script = package.supervisor_path(prefix, program)
        self.manager: Manager = (
            services.Systemd() if self.systemd else services.Supervised(script, python)
        )

    @property
    def command(self) -> str:
        """The path of the program's command."""
        return package.launcher_path(self._prefix, self._program)

    def launcher(self) -> str:
        """The text of the program's command; raises NotInstalled if ``python`` cannot run it."""
        return package.launcher(self._prefix, self._python, self._program)

    # --- files ------------------------------------------------------------------------------------

    def text(self, path: str) -> str:
        """What a file says; empty if it is not there."""
        return services.read_file(path)

    def file(self, path: str) -> FoundFile:
        """A file as it is."""
        content = self.text(path)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return FoundFile(content)
        owner = "root" if found.st_uid == os.geteuid() else "user %d" % found.st_uid
        mode = stat.S_IMODE(found.st_mode)
        return FoundFile(content, True, stat.S_ISREG(found.st_mode), mode, owner)

    def exists(self, path: str) -> bool:
        """Whether there is something, were it a link that leads nowhere."""
        return os.path.lexists(path)

    def write(self, file: File) -> None:
        """Put a file in place whole."""
        files.replace(file.path, file.content.encode(), file.mode)

    def remove(self, path: str) -> None:
        """Remove a file, if there is one."""
        files.remove(path)

    def remove_drafts(self, path: str) -> None:
        """Remove what runs that were killed have left of a file that they wrote."""
        files.clean(path)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it, unless they are there."""
        os.makedirs(path, exist_ok=True)

    def remove_empty_folder(self, path: str) -> None:
        """Remove a folder, unless something is in it."""
        with contextlib.suppress(OSError):
            os.rmdir(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder and all that is in it."""
        # One in /run, with sockets: what cannot be removed goes with the next boot.
        shutil.rmtree(path, ignore_errors=True)

    # --- users ------------------------------------------------------------------------------------

    def has_user(self, name: str) -> bool:
        """Whether the user is there."""
        return users.find(name) is not None

    def has_own_user(self, name: str) -> bool:
        """Whether the user is there, and we have made it."""
        return users.is_ours(name)

    def make_user(self, name: str) -> None:
        """Make a user without rights, unless it is there."""
        users.make(name)

    def remove_user(self, name: str) -> None:
        """Remove a user, if we have made it."""
        users.remove(name)

    def make_folder_of(self, path: str, user: str) -> None:
        """Make a folder that is the user's, unless it is there; then the user has to be allowed to
        write in it."""
        found = users.make(user)
        files.make_folder(path, found.pw_uid, found.pw_gid)
        test = [shutil.which("test") or "/usr/bin/test", "-w", path]
        with contextlib.suppress(OSError):
            if subprocess.run(test, user=user, extra_groups=(), check=False).returncode:
                raise InvalidInput(
                    "metrics_file: user %s may not write in %s; let it, or choose another folder"
                    % (user, path)
                )

    # --- processes --------------------------------------------------------------------------------

    def ticks(self) -> int:
        """The moment, as ``born`` has it."""
        return processes.ticks()

    def born(self, pid: int) -> int | None:
        """When a process began; None if it has ended."""
        return processes.born(pid)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock for what the kernel holds."""
        return locked()

    def run(self, command: list[str]) -> str:
        """Run a command to its end; what it said."""
        return processes.run(command)[1]

    # --- the package ------------------------------------------------------------------------------

    def version(self) -> str:
        """The package's version that would be installed."""
        return package.version(self._program)

    def package(self) -> package.Installed:
        """The package that is installed."""
        return package.observe(self._prefix, self._program)

    def install_package(self) -> None:
        """Put the package in place; versions before it stay."""
        package.install(self._prefix, self._python, self._program)

    def remove_versions(self) -> None:
        """Remove the versions that are not in use."""
        package.clean(self._prefix, self._program)

    def remove_program(self) -> None:
        """Remove the program's command and its package."""
        package.remove(self._prefix, self._program)
