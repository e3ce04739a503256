# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals: those that end the process unwind it first, and wait while it cleans up."""

from __future__ import annotations

import contextlib
import signal
import threading
import types
import typing as t

_HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def _raise_exit(number: int, _frame: types.FrameType | None) -> t.NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def unwinding() -> t.Iterator[None]:
    """Let SIGTERM and SIGHUP unwind as SIGINT does, where nobody handles them yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise_exit)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def undisturbed() -> t.Iterator[None]:
    """Keep such signals for afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """For a child that is started while we are undisturbed and lives on: it can be ended."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
