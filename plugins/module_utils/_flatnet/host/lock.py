# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two locks for all that changes the overlay on a host. Programs and modules take the same ones.

``locked`` is for what the kernel holds. Who holds it observes and applies as one step, so
flatnet-sync and a run of the playbook never undo each other's changes.

``installing`` is for what is installed, so that two controllers take turns. It is another lock,
because a module that installs flatnet-sync waits for it, while flatnet-sync takes the first one.
Nobody takes the second one while holding the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ..errors import FlatnetError

PATH = "/run/flatnet/lock"
INSTALLING = "/run/flatnet/installing"
# Seconds. A program that starts may wait for etcd, and a new user for a package installation.
_INSTALLED_BY = 180.0
_PAUSE = 0.02


class Locked(FlatnetError):
    """Somebody else has held the lock for too long."""


def installing(timeout: float = _INSTALLED_BY) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for files, users, services and the firewall; raises Locked."""
    return locked(timeout, INSTALLING, "installing on this host")


@contextlib.contextmanager
def locked(
    timeout: float = 60.0, path: str = PATH, doing: str = "changing the overlay on this host"
) -> Iterator[None]:
    """Hold the lock. Raises Locked after ``timeout`` seconds, which names the holder."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        # Only root can open it, so nobody else can hold it.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        hint = "; changing the network needs root (CAP_NET_ADMIN)" if os.geteuid() else ""
        raise Locked("the lock %s cannot be opened: %s%s" % (path, error.strerror, hint)) from None
    try:
        deadline = time.monotonic() + timeout
        while not _take(descriptor):
            if time.monotonic() > deadline:
                raise Locked(
                    "%s has been %s for %d seconds; wait for it, or end it"
                    % (name_of(os.pread(descriptor, 20, 0)), doing, timeout)
                )
            time.sleep(_PAUSE)
        # Only an error names the holder, so a full /run does not keep anybody from holding it.
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, b"%-20d" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def name_of(text: str | bytes) -> str:
    """A process by number and name, so that a person can find it. ``text`` is the number, as the
    process wrote it into its lock."""
    try:
        number = int(text)
    except ValueError:
        return "another process"
    try:
        with open("/proc/%d/comm" % number, encoding="utf-8", errors="replace") as file:
            return "process %d (%s)" % (number, file.read().strip())
    except OSError:
        return "process %d" % number


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
