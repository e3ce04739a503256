# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on what keeps programs running where there is no systemd: by a local user without rights,
by a program that it keeps, and by bad luck with process numbers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import (
    services,
    supervisor,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import (
    Service,
    ServiceChange,
)

from tests.lab.waiting import wait

SCRIPT = supervisor.__file__
NAME = "program"
SOMEBODY = 54321
IDLE = ["sleep", "1000"]


class Kept:
    """Supervised, in a folder that all may look into, as /run/flatnet is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = services.Supervised(SCRIPT, sys.executable)
        self.path = self.manager.path(NAME)

    def change(self, command: list[str], restart: bool = False, sockets: int = 0) -> None:
        (before,) = self.manager.read([NAME])
        text = services.definition(command, pause=0.1, sockets=sockets) if command else ""
        after = Service(NAME, text, bool(text), bool(text))
        self.manager.change([ServiceChange(before, after, restart)])

    def pid(self) -> int:
        found = supervisor.running(self.path)
        return found.pid if found else 0


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Kept]:
    folder = Path(tempfile.mkdtemp(prefix="flatnet-supervised-"))
    folder.chmod(0o755)
    monkeypatch.setattr(services, "RUN", str(folder))
    made = Kept(folder)
    try:
        yield made
    finally:
        made.change([])
        shutil.rmtree(folder)


@contextlib.contextmanager
def _running(*argv: str) -> t.Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


_LOCK = """
import contextlib, fcntl, os, sys, time
held = []
for name in os.listdir(sys.argv[1]):
    with contextlib.suppress(OSError):
        held.append(os.open(os.path.join(sys.argv[1], name), os.O_RDONLY | os.O_NONBLOCK))
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
print("done", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def _locked(folder: Path) -> t.Iterator[None]:
    """Somebody without rights holds locked whatever he can open."""
    who = ["setpriv", "--reuid=%d" % SOMEBODY, "--regid=%d" % SOMEBODY, "--clear-groups"]
    with _running(*who, "/usr/bin/python3", "-c", _LOCK, str(folder)) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        yield


@pytest.mark.parametrize("identity", ["of another time", "none, as earlier versions wrote it"])
def test_a_stale_pid_is_nobodys(kept: Kept, identity: str) -> None:
    """The supervisor was killed, its number is another process's by now, and a local user holds its
    pid file locked, if he can. Stopped and started, no other process is signalled."""
    kept.change(IDLE)
    file = Path(supervisor.pid_path(kept.path))
    if identity.startswith("none"):
        file.chmod(0o644)
    os.kill(kept.pid(), signal.SIGKILL)
    wait(lambda: not kept.pid(), "the supervisor's end")
    with _running(*IDLE) as other, _locked(kept.folder):
        lines = file.read_text().splitlines()
        lines[0] = str(other.pid)
        file.write_text("\n".join(lines[:1] if identity.startswith("none") else lines) + "\n")
        assert not kept.pid()
        kept.change(IDLE)
        assert kept.pid() not in (0, other.pid)
        kept.change([])
        assert other.poll() is None
        assert not kept.pid()


#: What is a supervisor's of before its file told more than its number: all can read that.
_FORMER = """
import fcntl, json, os, signal, subprocess, sys
child = subprocess.Popen(json.load(open(sys.argv[1]))["command"])
signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
file = open(sys.argv[1][:-len("json")] + "pid", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
signal.sigwait([signal.SIGTERM])
child.terminate()
child.wait()
"""


@pytest.mark.parametrize("then", ["changed", "started by hand", "removed"])
def test_the_supervisor_of_an_earlier_version(kept: Kept, then: str) -> None:
    """One of before the file had more than its number runs, and all is brought up to date: it is
    found, it ends with its program, and there are never two beside each other."""
    script = kept.folder / "former/supervisor.py"
    script.parent.mkdir()
    script.write_text(_FORMER)
    Path(kept.path).write_text(services.definition(IDLE))
    with _running("/usr/bin/python3", "-I", str(script), kept.path) as former:
        wait(lambda: kept.pid() == former.pid, "the former one")
        (child,) = _children(former.pid)
        assert kept.manager.runs(NAME, child)
        if then == "started by hand":
            with pytest.raises(services.ServiceFailed, match="another process supervises it"):
                kept.manager._start(kept.path)
            assert former.poll() is None
        kept.change(IDLE if then == "changed" else [], restart=True)
        assert former.wait(30) == 0
        assert not Path("/proc/%d" % child).exists()
        assert bool(kept.pid()) == (then == "changed")
    shutil.rmtree(script.parent)


def test_nobody_else_can_lock_or_reach_its_files(kept: Kept) -> None:
    """A local user locks what he can of a supervisor that runs: it is stopped and started, and what
    it listens at is root's."""
    kept.change(IDLE, sockets=4)
    for path in (supervisor.pid_path(kept.path), supervisor.notify_path(kept.path)):
        found = Path(path).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    first = kept.pid()
    with _locked(kept.folder):
        os.kill(first, signal.SIGKILL)
        wait(lambda: not kept.pid(), "the supervisor's end")
        kept.change(IDLE, sockets=4)
        assert kept.pid() not in (0, first)
        kept.change([])
        assert not list(kept.folder.iterdir())


#: Leaves far too much with the supervisor, some of it from another process and another user; tells
#: what it was started with.
_GREEDY = """
import array, os, socket, sys, time
with open(sys.argv[1], "a") as file:
    given = os.environ.get("LISTEN_FDNAMES", "-"), os.environ.get("LISTEN_FDS", 0)
    file.write("%s %s\\n" % given)
def tell(text, *descriptors):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        channel.sendmsg([text], rights if descriptors else [], 0, os.environ["NOTIFY_SOCKET"])
made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for dummy in range(100)]
numbers = [each.fileno() for each in made]
tell(b"FDSTORE=1\\nFDNAME=many", *numbers)
tell(b"FDSTORE=1\\nFDNAME=file", os.open("/dev/null", os.O_RDONLY))
tell(b"FDSTORE=1\\nFDNAME=../odd:name", numbers[0])
tell(b"\\xff\\xfe" * 1000, numbers[0])
tell(b"x" * 9000, numbers[0])
if os.fork() == 0:
    tell(b"FDSTORE=1\\nFDNAME=child", numbers[0])
    os._exit(0)
os.wait()
tell(b"FDSTORE=1\\nFDNAME=first", numbers[1])
tell(b"FDSTORE=1\\nFDNAME=first", numbers[2])
tell(b"FDSTORE=1\\nFDNAME=gone", numbers[3])
tell(b"FDSTOREREMOVE=1\\nFDNAME=gone")
for number in numbers:
    tell(b"FDSTORE=1\\nFDNAME=more-%d" % number, number)
done = open(sys.argv[1] + ".done", "w")
os.setgid(65534)
os.setuid(65534)
try:
    tell(b"FDSTOREREMOVE=1\\nFDNAME=first")
except PermissionError:
    pass
else:
    sys.exit("another user reached the supervisor")
done.write("done")
done.close()
time.sleep(1000)
"""


def test_what_it_keeps_for_a_program_is_bounded(kept: Kept) -> None:
    """A program leaves a hundred sockets, files, odd names and garbage with the supervisor; another
    process of it does as well, and it does as another user. So many sockets are kept, and no more;
    they are there when the program was killed, and when all begins anew."""
    told = kept.folder / "told"
    kept.change([sys.executable, "-c", _GREEDY, str(told)], sockets=4)
    done = kept.folder / "told.done"

    def starts(count: int) -> list[str]:
        wait(lambda: done.exists() and done.read_text(), "a start")
        done.unlink()
        lines = told.read_text().splitlines()
        assert len(lines) == count
        return lines

    assert starts(1) == ["- 0"]
    first = kept.pid()
    (child,) = _children(first)
    os.kill(child, signal.SIGKILL)
    names, count = starts(2)[-1].split()
    assert names.split(":")[0] == "first"
    assert (count, len(names.split(":"))) == ("4", 4)
    assert all(name.startswith("more-") for name in names.split(":")[1:])
    sockets = [each for each in os.listdir("/proc/%d/fd" % first) if _is_socket(first, each)]
    assert len(sockets) == 4 + 1  # and the one that it listens at
    kept.change([sys.executable, "-c", _GREEDY, str(told)], restart=True, sockets=4)
    assert starts(3)[-1] == "%s 4" % names
    assert kept.pid() == first


def _children(pid: int) -> list[int]:
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        return [int(each) for each in file.read().split()]


def _is_socket(pid: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.readlink("/proc/%d/fd/%s" % (pid, name)).startswith("socket:")
    return False


def test_a_broken_definition_keeps_what_runs(kept: Kept) -> None:
    """Told to begin anew with a definition that cannot be read, it goes on as before."""
    kept.change(IDLE)
    pid = kept.pid()
    (child,) = _children(pid)
    before = Path(kept.path).read_text()
    Path(kept.path).write_text("{")
    os.kill(pid, signal.SIGHUP)
    wait(lambda: _children(pid) not in ([], [child]), "the program, started anew")
    assert kept.pid() == pid
    Path(kept.path).write_text(before)


def test_a_full_disk_ends_no_supervisor(kept: Kept) -> None:
    """Bad luck: there is no room for the log, just when the program ends. It is started again."""
    os.symlink("/dev/full", supervisor.log_path(kept.path))
    kept.change(IDLE)
    pid = kept.pid()
    (child,) = _children(pid)
    os.kill(child, signal.SIGKILL)
    wait(lambda: _children(pid) not in ([], [child]), "the program, started anew")
    assert kept.pid() == pid
