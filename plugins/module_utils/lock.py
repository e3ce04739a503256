# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lock for everything that changes the overlay on a host, held by program or module alike.

So the resident program never fights a run of the playbook: each observes and applies as one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from .errors import FlatnetError

PATH = "/run/flatnet/lock"
_PAUSE = 0.02


class Locked(FlatnetError):
    """Somebody else holds the lock for too long."""


@contextlib.contextmanager
def locked(timeout: float = 60.0, path: str = PATH) -> Iterator[None]:
    """Hold the lock; raises Locked after ``timeout`` seconds, naming the holder."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "; changing the network needs root (CAP_NET_ADMIN)" if os.geteuid() else ""
        raise Locked("the lock %s cannot be opened: %s%s" % (path, error.strerror, hint)) from None
    try:
        deadline = time.monotonic() + timeout
        while not _take(descriptor):
            if time.monotonic() > deadline:
                raise Locked(
                    "process %s has been changing the overlay on this host for %d seconds; wait "
                    "for it, or end it" % (os.pread(descriptor, 20, 0).decode() or "?", timeout)
                )
            time.sleep(_PAUSE)
        os.pwrite(descriptor, b"%-20d" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
