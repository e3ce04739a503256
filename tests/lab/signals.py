# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals: those that end the process unwind it first, and wait while it cleans up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import types
import typing as t

#: What ends a process, and its handler where nobody else cares.
_ENDING: dict[signal.Signals, t.Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}

#: Repeated sooner than this, a signal comes from somebody impatient: the cleaning up is under way.
_PATIENCE = 3


@contextlib.contextmanager
def unwinding() -> t.Iterator[None]:
    """Let these signals unwind the process, where nobody handles them otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -float(_PATIENCE)

    def unwind(number: int, _frame: types.FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before < _PATIENCE:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    ours = {number: usual for number, usual in _ENDING.items() if signal.getsignal(number) is usual}
    for number in ours:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)


def hold() -> set[signal.Signals]:
    """Keep these signals for afterwards; returns what was kept already."""
    return t.cast("set[signal.Signals]", signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING))


@contextlib.contextmanager
def undisturbed() -> t.Iterator[None]:
    """Keep these signals until the end of the block."""
    before = hold()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """For a child that is started while we are undisturbed and lives on: it can be ended."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
