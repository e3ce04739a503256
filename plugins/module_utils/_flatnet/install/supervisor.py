# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one program running on a host without systemd: starts it again when it ends.

    python3 -I supervisor.py DEFINITION

DEFINITION is the path of a JSON file with these fields:

    command  the program and its arguments
    every    0: the program runs for ever; else it is run to its end each time so many seconds pass
    pause    seconds until a program that has ended is started again; 0: longer each time
    sockets  how many sockets the program may leave here; see ``Store``

The supervisor has more files beside that one, with the same name and another ending:

    .pid     which process supervises; a supervisor holds it locked as long as it lives
    .log     what the supervisor and the program have said
    .notify  the socket at which the program leaves its sockets

All are in a folder of root's, and nobody but root can open ``.pid`` and ``.notify``.

The command returns as soon as a process in the background supervises. SIGTERM ends the program, and
then the supervisor. SIGHUP has both start anew, as they are on disk by then; the sockets stay open.

This is one script that imports nothing of the package, although it is longer than other files here:
it runs by its path, and goes on running while the package around it is replaced.
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

# All in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # until a program that has ended is started again
_STEADY = 10.0  # a program that ran longer is started again after the first pause
_STOP_TIME = 10.0  # from SIGTERM to SIGKILL
_TICK = 60.0  # until the log is looked at again
_LOG_LIMIT = 4 << 20  # bytes
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_GO_ON = "--go-on"
_FIRST_SOCKET = 3  # sd_listen_fds(3)
_CREDENTIALS = struct.Struct("=iII")  # of the sender of a message: process, user, group
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
    """The process that supervises, how many ``times`` it began anew, and the interpreter and the
    path of its ``script``."""

    pid: int
    times: int
    script: tuple[str, str]


def running(definition: str) -> Supervising | None:
    """The supervisor of a definition; None if it does not run.

    By now the process id in the file may be another process's. So the file also says when the
    supervisor started, and in which boot. Earlier versions wrote only the id; then the command line
    of the process has to be a supervisor's."""
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
    """What no other process has: when it started, in clock ticks, and in which boot. Raises
    ValueError if the process has ended, and is only not waited for."""
    with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
        # The name may have anything in it, so look behind it: the state is field 3, the start 22.
        fields = file.read().rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise ValueError("process %d has ended" % pid)
    with open(_BOOT, encoding="ascii") as file:
        return "%s %s" % (fields[19], file.read().strip())


def _is_former(pid: int, definition: str) -> bool:
    """Whether the process is a supervisor of an earlier version, started for this definition."""
    with open("/proc/%d/cmdline" % pid, "rb") as file:
        words = list(map(os.fsdecode, file.read().split(b"\0")))
        ours = os.fstat(file.fileno()).st_uid == os.geteuid()
    script = os.path.basename(words[2]) if len(words) > 3 else ""
    return ours and script == "supervisor.py" and words[3] == definition


class Store:
    """Sockets that the program leaves here. They stay open when it ends, and the next process is
    started with them. The protocol is systemd's: see sd_notify(3) and sd_listen_fds(3).

    Only messages of the program's own process are obeyed, and only while it is root. Once it has
    become another user it cannot reach the socket any more.
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
        """The descriptor to wait for; -1 if there is none."""
        return self._channel.fileno() if self._channel else -1

    def close(self) -> None:
        if self._channel:
            self._channel.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def hear(self, pid: int) -> None:
        """Read all messages, and obey those of process ``pid``."""
        while self._channel:
            size = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * self._most)
            try:
                data, extra, flags, dummy = self._channel.recvmsg(
                    _LONGEST_MESSAGE, size, socket.MSG_CMSG_CLOEXEC
                )
            except OSError:  # there are no more messages
                return
            came, sender = _unpack(extra)
            cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            if sender != (pid, os.geteuid()) or cut or not self._obey(data, came):
                for number in came:
                    os.close(number)

    def _obey(self, data: bytes, came: list[int]) -> bool:
        """Do what a message asks for. Returns whether its descriptor is kept."""
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
        """Called in the child that becomes the program: tell it of the socket and give it what is
        held."""
        if self._channel:
            environment["NOTIFY_SOCKET"] = self._path
        if not self._held:
            return
        # Move them to high numbers first: a socket may have the number that another one must get.
        above = _FIRST_SOCKET + len(self._held)
        copies = [fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, above) for n in self._held.values()]
        for number, copy in enumerate(copies, _FIRST_SOCKET):
            os.dup2(copy, number)
        environment["LISTEN_PID"] = str(os.getpid())
        environment["LISTEN_FDS"] = str(len(copies))
        environment["LISTEN_FDNAMES"] = ":".join(self._held)


def _unpack(extra: list[tuple[int, int, bytes]]) -> tuple[list[int], tuple[int, int]]:
    """The descriptors that came with a message, and its sender: process and user."""
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
    """One program, which is started again whenever it ends, until a signal ends the supervisor."""

    def __init__(self, definition: str, lock: int, held: dict[str, int]) -> None:
        self._definition = definition
        self._lock = lock
        self._log = log_path(definition)
        self._read()
        self._store = Store(notify_path(definition), self._sockets, held)
        self._child = 0
        # Signals that have come: to end, and to begin anew.
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
        """Returns when a signal has ended it. Does not return if the process begins anew."""
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
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            sys.stderr.write("%s: %s\n" % (os.path.basename(self._command[0]), text))
            sys.stderr.flush()

    def _start(self) -> int:
        parent = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            # If the supervisor is killed, the kernel ends the program.
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
        """Start the program, and wait until it has ended, or end it. Returns its exit status."""
        self._child = self._start()
        stop_at = 0.0
        while not os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._next(min(_TICK, max(stop_at - time.monotonic(), 0)) if stop_at else _TICK)
            if (self._ends or self._again) and not stop_at:
                os.kill(self._child, signal.SIGTERM)
                stop_at = time.monotonic() + _STOP_TIME
            elif stop_at and time.monotonic() >= stop_at:
                os.kill(self._child, signal.SIGKILL)
        # Its process id, which is also its group's, stays taken until waitpid.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        self._store.hear(self._child)
        child, self._child = self._child, 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _pause(self, seconds: float) -> None:
        """Wait so long, but not longer than until a signal comes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (self._ends or self._again):
            self._next(min(until - time.monotonic(), _TICK))
        if self._again and not self._ends:
            self._begin_anew()

    def _next(self, seconds: float) -> None:
        """Wait for a signal or for a message of the program, and take it in."""
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
        """Run the script that is on disk now, in this process, with the same lock and sockets."""
        self._again = False
        held = self._store.held
        words = [sys.executable, "-I", sys.argv[0], self._definition, _GO_ON]
        words.append(json.dumps({"lock": self._lock, "held": held}))
        try:
            self._read()
            if os.path.exists(sys.argv[0]):
                for number in (self._lock, *held.values()):
                    os.set_inheritable(number, True)
                # Signals that come meanwhile wait until the new script can handle them.
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                os.execv(sys.executable, words)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._say("its supervisor cannot start anew, and goes on as before: %s" % error)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _tell_identity(self._lock, self._definition)

    def _trim(self) -> None:
        """Move a log that is too long to ``.log.1``. The program appends to it, so it can be
        emptied while the program has it open."""
        with contextlib.suppress(OSError):
            if os.stat(self._log).st_size > _LOG_LIMIT:
                shutil.copyfile(self._log, self._log + ".1")
                os.truncate(self._log, 0)


def _detach(definition: str) -> int:
    """Supervise in a new process in the background. Returns in the caller's process, once that one
    supervises or has failed: the exit status."""
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
    """The new script, after ``_begin_anew``."""
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
    """Open and lock ``.pid``, until this process ends. Whoever can open a file can lock it. Earlier
    versions made one that all could open; that one is replaced."""
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
    return OSError("another process supervises it already; %s has its number" % path)


def _tell_identity(lock: int, definition: str) -> None:
    """Write to ``.pid`` who supervises, and how often it began anew. In one call, so that nobody
    reads a part of it."""
    pid, before = os.getpid(), running(definition)
    times = before.times + 1 if before else 0
    lines = [str(pid), _identity(pid), "%09d" % times, sys.executable, sys.argv[0]]
    text = ("\n".join(lines) + "\n").encode()
    os.pwrite(lock, text, 0)
    os.ftruncate(lock, len(text))


def _redirect(log: str) -> None:
    """Let go of the terminal, or whatever the caller had open."""
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
