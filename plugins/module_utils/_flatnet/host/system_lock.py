# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own locks for users and groups, which a package installation may hold for a while.

There are two kinds. lckpwdf(3) locks /etc/.pwd.lock. useradd and similar commands write their
number into /etc/passwd.lock, /etc/group.lock and so on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time

from ..errors import FlatnetError
from .lock import name_of
from .processes import born, run

_ETC = "/etc"
_WITH_LOCKS = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
_FLOCK = "hhqqi"  # struct flock, see fcntl(2): type, whence, start, length, process
_PAUSE = 0.5
# The command's words are compared, so they have to be English.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class HostBusy(FlatnetError):
    """Somebody else has held a lock of the host for too long."""


def run_with_users(*command: str, patience: float = 60.0) -> tuple[int, str]:
    """Run a command that changes users, again and again while it cannot lock them. Returns its exit
    status and what it said. Raises HostBusy, which names the holder."""
    deadline = time.monotonic() + patience
    while True:
        code, output = run(list(command), _ENVIRONMENT)
        if not code or "cannot lock" not in output:
            return code, output
        if time.monotonic() > deadline:
            raise HostBusy(
                "%s (for %d seconds); %s holds the lock; wait for it, or end it"
                % (output.strip().splitlines()[-1].rstrip("."), patience, holder())
            )
        time.sleep(_PAUSE)


def holder() -> str:
    """The process that has locked users or groups."""
    for name in _WITH_LOCKS:
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(_ETC, name + ".lock"), "rb") as file:
                number = int(file.read(20).strip(b"\0\n "))
            if born(number) is not None:
                return name_of(str(number))
    with contextlib.suppress(OSError, struct.error):
        with open(os.path.join(_ETC, ".pwd.lock"), "rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            kind, *dummy, number = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        if kind != fcntl.F_UNLCK and number > 0:
            return name_of(str(number))
    return "another process"
