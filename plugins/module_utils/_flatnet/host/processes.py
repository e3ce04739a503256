# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of this host, as /proc shows them, and commands that are run to their end."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from ..errors import FlatnetError

_PATIENCE = 120.0  # systemd's own limit for starting a unit is 90 s


class CommandFailed(FlatnetError):
    """A command is not on the host, or does not end."""


def born(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None if it has ended. Its number may be given
    to another process later, which has begun at another time."""
    found = _stat(pid)
    return int(found[19]) if found and found[0] not in ("Z", "X") else None


def ticks() -> int:
    """What ``born`` would say of a process that begins now. This clock cannot be set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 10**9


def parent(pid: int) -> int | None:
    """The process that started it; None if it is not there."""
    found = _stat(pid)
    return int(found[1]) if found else None


def run(command: list[str], env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end. Returns its exit status and what it said. Raises CommandFailed if
    it is not there, or does not end within two minutes."""
    # Not every user's path has the system's own commands.
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin:/sbin")
    if not program:
        raise CommandFailed("the command %s is not on this host; install it" % command[0])
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(
            "'%s' has not ended after %d seconds; run it by hand to see why"
            % (" ".join(command), _PATIENCE)
        ) from None
    return done.returncode, done.stdout


def _stat(pid: int) -> list[str] | None:
    """What follows the name in /proc/PID/stat: state, parent, …; see proc(5)."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
