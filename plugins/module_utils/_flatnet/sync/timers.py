# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the loop has something to do that nobody asks for. All times are of time.monotonic()."""

from __future__ import annotations

import os
import random
import time

from ..host.journal import notify

# Seconds. What follows a change on disk is written when nothing has changed for the first, and in a
# storm of changes, which it would hold up, every so often.
_SAVE_DELAY, _LONGEST_SAVE_DELAY = 1.0, 5.0
# To systemd, which waits for the program to be ready: wait so many seconds more.
_LONGER = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=%d000000"


def jitter(seconds: float) -> float:
    """About so long, so that a fleet's hosts do not act as one."""
    return seconds * random.uniform(0.8, 1.2)


def take_longer(seconds: float) -> None:
    """Tell systemd that the program may be ready so many seconds later."""
    notify(_LONGER % (seconds + 30))


class Writing:
    """When to write to disk what has changed: ``due``, None if nothing has."""

    def __init__(self) -> None:
        self.due: float | None = None
        self._since: float | None = None

    def changed(self) -> None:
        """Something changed just now."""
        now = time.monotonic()
        self._since = self._since or now
        self.due = min(now + _SAVE_DELAY, self._since + _LONGEST_SAVE_DELAY)

    def written(self) -> None:
        """All is on disk."""
        self.due = self._since = None


class SignOfLife:
    """When to tell systemd that the program does not hang: ``due``, None if nobody asked for it."""

    def __init__(self) -> None:
        watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        self._interval = watchdog / 3
        self.due = time.monotonic() if watchdog else None

    def give(self) -> None:
        """If it is due."""
        now = time.monotonic()
        if self.due is not None and now >= self.due:
            notify("WATCHDOG=1")
            self.due = now + self._interval

    def given(self) -> None:
        """It was given otherwise."""
        if self.due is not None:
            self.due = time.monotonic() + self._interval
