# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one program running on a host that systemd does not run: starts it again when it ends.

    python3 -I supervisor.py DEFINITION

DEFINITION is a file of JSON: ``command``; ``every`` (seconds; 0 for a program that is to run for
ever); ``pause`` (seconds before one that ended is started again; 0: longer each time). Beside it
are, with its name, ``.pid``, which the supervisor holds locked for as long as it lives, and
``.log``, what it and the program say. It returns once it supervises, and ends on SIGTERM, its
program first. A script of its own: imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # before a program that ended is started again
_STEADY = 10.0  # so long it has to run to be started again at once
_STOP_TIME = 10.0  # between SIGTERM and SIGKILL
_TICK = 60.0
_LOG_LIMIT = 4 << 20
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1


def pid_path(definition: str) -> str:
    return os.path.splitext(definition)[0] + ".pid"


def log_path(definition: str) -> str:
    return os.path.splitext(definition)[0] + ".log"


def running(definition: str) -> int | None:
    """The supervisor's process id, None if it does not run: a dead process holds no lock."""
    try:
        with open(pid_path(definition), encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


class Supervisor:
    """One program, started again and again until a signal says that it is enough."""

    def __init__(self, definition: str) -> None:
        with open(definition, encoding="utf-8") as file:
            found = json.load(file)
        self._command: list[str] = found["command"]
        self._every: float = found["every"]
        self._pause_always: float = found["pause"]
        self._log = log_path(definition)

    def run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            begin = time.monotonic()
            status = self._attend(self._start())
            if status is None:
                return
            if self._every:
                pause = self._every * random.uniform(0.8, 1.2)
                if status:
                    self._say("ended with status %d" % status)
            else:
                steady = time.monotonic() - begin > _STEADY
                pause = _FIRST_PAUSE if steady else min(pause * 2, _LONGEST_PAUSE)
                pause = self._pause_always or pause
                self._say("ended with status %d; it is started again" % status)
            if self._pause(pause):
                return

    def _say(self, text: str) -> None:
        sys.stderr.write("%s: %s\n" % (os.path.basename(self._command[0]), text))

    def _start(self) -> subprocess.Popen[bytes] | None:
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            # Nobody else would end it if this process were killed.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        try:
            return subprocess.Popen(self._command, preexec_fn=prepare)  # noqa: PLW1509
        except OSError as error:
            self._say("cannot be started: %s" % error)
            return None

    def _attend(self, child: subprocess.Popen[bytes] | None) -> int | None:
        """Wait for its end; its status, or None if it was we who had to end it."""
        if child is None:
            return 127
        while child.poll() is None:
            if self._next(_TICK):
                child.terminate()
                try:
                    child.wait(_STOP_TIME)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                return None
        return child.returncode

    def _pause(self, seconds: float) -> bool:
        """Wait; whether a signal to end came meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._next(min(until - time.monotonic(), _TICK)):
                return True
        return False

    def _next(self, seconds: float) -> bool:
        """Wait for a signal; whether it is one to end."""
        came = signal.sigtimedwait(_SIGNALS, max(seconds, 0))
        self._trim()
        return came is not None and came.si_signo in (signal.SIGTERM, signal.SIGINT)

    def _trim(self) -> None:
        """The program has the log open to append, so it can be cut short under it."""
        with contextlib.suppress(OSError):
            if os.stat(self._log).st_size > _LOG_LIMIT:
                shutil.copyfile(self._log, self._log + ".1")
                os.truncate(self._log, 0)


def _detach(definition: str) -> int:
    """Become a process of its own, which nothing waits for; returns in the caller's process only
    when supervision stands, or failed to."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            failure = pipe.read()
        sys.stderr.write(failure)
        return 1 if failure else 0
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(reader)
    status = 1
    try:
        # Held locked and open until the end.
        lock = os.open(pid_path(definition), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        supervisor = Supervisor(definition)
        signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        _redirect(log_path(definition))
        os.chdir("/")
        os.umask(0o022)
    except (OSError, ValueError, KeyError, TypeError) as error:
        os.write(writer, ("cannot supervise %s: %s\n" % (definition, error)).encode())
        os._exit(1)
    os.close(writer)
    try:
        supervisor.run()
        status = 0
    finally:
        os._exit(status)


def _redirect(log: str) -> None:
    """Nothing of whoever started us stays open."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for number, replacement in ((0, null), (1, file), (2, file)):
        os.dup2(replacement, number)
    os.close(null)
    os.close(file)


if __name__ == "__main__":
    raise SystemExit(_detach(os.path.abspath(sys.argv[1])))
