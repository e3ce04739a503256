# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one program running on a host that systemd does not run: starts it again when it ends.

    python3 -I supervisor.py DEFINITION

DEFINITION is a file of JSON: ``command``; ``every`` (seconds; 0 for a program that is to run for
ever); ``pause`` (seconds before one that ended is started again; 0: longer each time); ``sockets``
(so many it may leave here, see ``Store``). Beside it are, with its name, ``.pid``, which tells who
supervises, and which a supervisor holds locked for as long as it lives; ``.log``, what it and the
program say; and ``.notify``. All of them are in a folder of root's, and nobody else can open what
is locked or listened at. It returns once it supervises, and ends on SIGTERM, its program first. On
SIGHUP it starts itself and its program anew, as they are on disk by then, and keeps the sockets. A
script of its own: imports nothing of the package.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import time
from typing import NamedTuple, NoReturn

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # before a program that ended is started again
_STEADY = 10.0  # so long it has to run to be started again at once
_STOP_TIME = 10.0  # between SIGTERM and SIGKILL
_TICK = 60.0
_LOG_LIMIT = 4 << 20
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_GO_ON = "--go-on"
_FIRST_SOCKET = 3  # sd_listen_fds(3)
_CREDENTIALS = struct.Struct("=iII")  # process, user, group
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_LONGEST_MESSAGE = 4096
_BOOT = "/proc/sys/kernel/random/boot_id"


def pid_path(definition: str) -> str:
    return os.path.splitext(definition)[0] + ".pid"


def log_path(definition: str) -> str:
    return os.path.splitext(definition)[0] + ".log"


def notify_path(definition: str) -> str:
    return os.path.splitext(definition)[0] + ".notify"


class Supervising(NamedTuple):
    """Who supervises: a process, the ``script`` that it runs and by which interpreter, and how many
    times it began anew."""

    pid: int
    times: int
    script: tuple[str, str]


def running(definition: str) -> Supervising | None:
    """The supervisor, None if it does not run. A process id alone tells nothing: it may be another
    process's by now. So the file has when that process started as well, and in which boot. Earlier
    versions wrote no more than the id: then what the process was started for tells."""
    try:
        with open(pid_path(definition), encoding="utf-8") as file:
            pid, *others = file.read().splitlines()
        if not others:
            found = _is_former(int(pid), definition)
            return Supervising(int(pid), 0, ("", "")) if found else None
        identity, times, python, script = others
        if identity == _identity(int(pid)):
            return Supervising(int(pid), int(times), (python, script))
    except (OSError, ValueError):
        pass
    return None


def _identity(pid: int) -> str:
    """What no other process has had: when it started, in clock ticks since which boot. Of none that
    has ended, and was only not waited for."""
    with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
        # After the name, which may have anything in it: state and start are fields 3 and 22.
        fields = file.read().rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise ValueError("process %d has ended" % pid)
    with open(_BOOT, encoding="ascii") as file:
        return "%s %s" % (fields[19], file.read().strip())


def _is_former(pid: int, definition: str) -> bool:
    """Whether a supervisor of ours was started for this definition under this number, and runs."""
    with open("/proc/%d/cmdline" % pid, "rb") as file:
        words = list(map(os.fsdecode, file.read().split(b"\0")))
        ours = os.fstat(file.fileno()).st_uid == os.geteuid()
    script = os.path.basename(words[2]) if len(words) > 3 else ""
    return ours and script == "supervisor.py" and words[3] == definition


class Store:
    """Sockets that the program leaves here, as systemd's store of file descriptors has them: they
    outlive it, and the next one is started with them. See sd_notify(3) and sd_listen_fds(3).

    Only the program itself is heard, and only while it is root: once it has become another user it
    cannot reach the socket at all.
    """

    def __init__(self, path: str, most: int, held: dict[str, int]) -> None:
        self._path = path
        self._most = most
        self._held = held
        self._channel: socket.socket | None = None
        for number in held.values():
            os.set_inheritable(number, False)
        if most:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            before = os.umask(0o177)
            try:
                self._channel.bind(path)
            finally:
                os.umask(before)

    @property
    def held(self) -> dict[str, int]:
        return dict(self._held)

    def fileno(self) -> int:
        """What to wait for; -1: nothing."""
        return self._channel.fileno() if self._channel else -1

    def close(self) -> None:
        if self._channel:
            self._channel.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def hear(self, pid: int) -> None:
        """Take what process ``pid`` said."""
        while self._channel:
            size = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * self._most)
            try:
                data, extra, flags, dummy = self._channel.recvmsg(
                    _LONGEST_MESSAGE, size, socket.MSG_CMSG_CLOEXEC
                )
            except OSError:  # there is no more
                return
            came, sender = _unpack(extra)
            cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            if sender != (pid, os.geteuid()) or cut or not self._obey(data, came):
                for number in came:
                    os.close(number)

    def _obey(self, data: bytes, came: list[int]) -> bool:
        """Whether the descriptors are kept."""
        lines = data.decode("utf-8", "replace").splitlines()
        said = {key: value for key, dummy, value in (line.partition("=") for line in lines)}
        name = said.get("FDNAME", "stored")
        if not _NAME.fullmatch(name):
            return False
        if said.get("FDSTOREREMOVE") == "1" and name in self._held:
            os.close(self._held.pop(name))
        if said.get("FDSTORE") != "1" or len(came) != 1:
            return False
        if name in self._held or len(self._held) >= self._most or not _is_socket(came[0]):
            return False
        self._held[name] = came[0]
        return True

    def hand_on(self, environment: dict[str, str]) -> None:
        """In the process that is to be the program: have it know of all this."""
        if self._channel:
            environment["NOTIFY_SOCKET"] = self._path
        if not self._held:
            return
        # Out of the way first: the numbers that they have may be those that others are to get.
        above = _FIRST_SOCKET + len(self._held)
        copies = [fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, above) for n in self._held.values()]
        for number, copy in enumerate(copies, _FIRST_SOCKET):
            os.dup2(copy, number)
        environment["LISTEN_PID"] = str(os.getpid())
        environment["LISTEN_FDS"] = str(len(copies))
        environment["LISTEN_FDNAMES"] = ":".join(self._held)


def _unpack(extra: list[tuple[int, int, bytes]]) -> tuple[list[int], tuple[int, int]]:
    """Descriptors that came with a message, and who sent it: process and user."""
    came = array.array("i")
    sender = (0, -1)
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            came.frombytes(data[: len(data) - len(data) % came.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender = _CREDENTIALS.unpack(data)[:2]
    return list(came), sender


def _is_socket(number: int) -> bool:
    return stat.S_ISSOCK(os.fstat(number).st_mode)


class Supervisor:
    """One program, started again and again until a signal says that it is enough."""

    def __init__(self, definition: str, lock: int, held: dict[str, int]) -> None:
        self._definition = definition
        self._lock = lock
        self._log = log_path(definition)
        self._read()
        self._store = Store(notify_path(definition), self._sockets, held)
        self._child = 0
        # What has come and is not yet attended to.
        self._ends = self._again = False
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in _SIGNALS:
            signal.signal(number, lambda *_ignored: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _read(self) -> None:
        with open(self._definition, encoding="utf-8") as file:
            found = json.load(file)
        self._command: list[str] = found["command"]
        self._every: float = found["every"]
        self._pause_always: float = found["pause"]
        self._sockets: int = found.get("sockets", 0)

    def run(self) -> None:
        """Until it is enough; does not return if it begins anew."""
        pause = _FIRST_PAUSE
        try:
            while not self._ends:
                begin = time.monotonic()
                status = self._attend()
                if self._again and not self._ends:
                    self._begin_anew()
                    pause = _FIRST_PAUSE
                elif self._every:
                    pause = self._every * random.uniform(0.8, 1.2)
                    if status:
                        self._say("ended with status %d" % status)
                elif not self._ends:
                    steady = time.monotonic() - begin > _STEADY
                    pause = _FIRST_PAUSE if steady else min(pause * 2, _LONGEST_PAUSE)
                    pause = self._pause_always or pause
                    self._say("ended with status %d; it is started again" % status)
                self._pause(pause)
        finally:
            self._store.close()

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # there is no room, which is no reason to end
            sys.stderr.write("%s: %s\n" % (os.path.basename(self._command[0]), text))
            sys.stderr.flush()

    def _start(self) -> int:
        parent = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            # Nobody else would end it if this process were killed.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            environment = dict(os.environ)
            self._store.hand_on(environment)
            os.execvpe(self._command[0], self._command, environment)
        except OSError as error:
            self._say("cannot be started: %s" % error)
        finally:
            os._exit(127)

    def _attend(self) -> int:
        """Start it, and wait for its end or bring it about; its status."""
        self._child = self._start()
        stop_at = 0.0
        while not os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._next(min(_TICK, max(stop_at - time.monotonic(), 0)) if stop_at else _TICK)
            if (self._ends or self._again) and not stop_at:
                os.kill(self._child, signal.SIGTERM)
                stop_at = time.monotonic() + _STOP_TIME
            elif stop_at and time.monotonic() >= stop_at:
                os.kill(self._child, signal.SIGKILL)
        # Its number is its own, and its group's, until it is waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        self._store.hear(self._child)
        child, self._child = self._child, 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _pause(self, seconds: float) -> None:
        """Wait, unless a signal comes meanwhile that says what to do now."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (self._ends or self._again):
            self._next(min(until - time.monotonic(), _TICK))
        if self._again and not self._ends:
            self._begin_anew()

    def _next(self, seconds: float) -> None:
        """Wait for a signal, or for the program to say something."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._store.fileno() >= 0:
            poll.register(self._store.fileno(), select.POLLIN)
        poll.poll(max(seconds, 0) * 1000 + 1)
        came: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            came = set(os.read(self._wake, 4096))
        self._ends = self._ends or bool(came & {signal.SIGTERM, signal.SIGINT})
        self._again = self._again or signal.SIGHUP in came
        self._store.hear(self._child)
        self._trim()

    def _begin_anew(self) -> None:
        """Become what is on disk now, the same process with the same lock and sockets."""
        self._again = False
        held = self._store.held
        words = [sys.executable, "-I", sys.argv[0], self._definition, _GO_ON]
        words.append(json.dumps({"lock": self._lock, "held": held}))
        try:
            self._read()
            if os.path.exists(sys.argv[0]):
                for number in (self._lock, *held.values()):
                    os.set_inheritable(number, True)
                # Signals outlive this, and wait until the next one can tell what to do.
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                os.execv(sys.executable, words)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._say("goes on as before: %s" % error)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _tell_identity(self._lock, self._definition)

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
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
        lock = _take_lock(definition)
        os.chdir("/")
        os.umask(0o022)
        supervisor = Supervisor(definition, lock, {})
        _tell_identity(lock, definition)
        _redirect(log_path(definition))
    except (OSError, ValueError, KeyError, TypeError) as error:
        os.write(writer, ("cannot supervise %s: %s\n" % (definition, error)).encode())
        os._exit(1)
    os.close(writer)
    return _run(supervisor)


def _go_on(definition: str, words: str) -> NoReturn:
    """After ``_begin_anew``."""
    found = json.loads(words)
    lock: int = found["lock"]
    os.set_inheritable(lock, False)
    supervisor = Supervisor(definition, lock, found["held"])
    _tell_identity(lock, definition)
    _run(supervisor)


def _run(supervisor: Supervisor) -> NoReturn:
    status = 1
    try:
        supervisor.run()
        status = 0
    finally:
        os._exit(status)


def _take_lock(definition: str) -> int:
    """The open and locked file, held until the end. Others could lock what they can read, so one of
    an earlier version, which all could, is not used any more."""
    path = pid_path(definition)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        found = os.fstat(lock)
        if stat.S_IMODE(found.st_mode) == 0o600 and found.st_uid == os.geteuid():
            break
        if running(definition):
            raise _held(path)
        os.unlink(path)
        os.close(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held(path) from None
    return lock


def _held(path: str) -> OSError:
    return OSError("another process does already; %s names it" % path)


def _tell_identity(lock: int, definition: str) -> None:
    """Who supervises, and how often anew, in the file; at once, for those who read it meanwhile."""
    pid, before = os.getpid(), running(definition)
    times = before.times + 1 if before else 0
    lines = [str(pid), _identity(pid), "%09d" % times, sys.executable, sys.argv[0]]
    text = ("\n".join(lines) + "\n").encode()
    os.pwrite(lock, text, 0)
    os.ftruncate(lock, len(text))


def _redirect(log: str) -> None:
    """Nothing of whoever started us stays open."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for number, replacement in ((0, null), (1, file), (2, file)):
        os.dup2(replacement, number)
    os.close(null)
    os.close(file)


if __name__ == "__main__":
    sys.argv[0] = os.path.abspath(sys.argv[0])
    given = sys.argv[1:]
    if len(given) == 3 and given[1] == _GO_ON:
        _go_on(given[0], given[2])
    raise SystemExit(_detach(os.path.abspath(given[0])))
