# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where labs are known: a directory for each, so that any process can use or clean up each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import typing as t
from pathlib import Path

STATE = Path("/run/flatnet-lab")

_LOCK = STATE / ".lock"


def names() -> list[str]:
    return sorted(path.name for path in STATE.glob("*") if path.is_dir())


@contextlib.contextmanager
def locked() -> t.Iterator[None]:
    """Have the directory to oneself: processes share it, and the last to leave removes it."""
    while True:
        STATE.mkdir(exist_ok=True)
        try:
            lock = _LOCK.open("w")
        except FileNotFoundError:  # removed in between
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                current = os.path.samestat(os.fstat(lock.fileno()), _LOCK.stat())
            except FileNotFoundError:
                current = False
            if not current:  # removed while we waited for it
                continue
            yield
            return


def remove() -> None:
    """Remove the directory; only while it is locked and holds no lab."""
    _LOCK.unlink()
    # Somebody who is about to build a lab may just have made a lock anew.
    with contextlib.suppress(OSError):
        STATE.rmdir()
