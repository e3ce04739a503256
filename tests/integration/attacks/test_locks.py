# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks of the host and of ours that somebody else holds."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import lock, system_lock

COLLECTIONS = Path(__file__).resolve().parents[3] / ".cache/collections"
_NAME = "flatnet-locktest"
_COMM = Path(sys.executable).name

# In a mount namespace with an /etc of its own. The holder has the lock until it ends.
_MAKE_A_USER = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
subprocess.run(["mount", "--bind", sys.argv[2], "/etc"], check=True)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import (
    system_lock,
    users,
)
kind, seconds, patience = sys.argv[3], sys.argv[4], float(sys.argv[5])
HOLDER = '''
import fcntl, os, sys, time
if sys.argv[1] == "group":
    open("/etc/group.lock", "w").write(str(os.getpid()))
else:
    fcntl.lockf(open("/etc/.pwd.lock", "w"), fcntl.LOCK_EX)
print(flush=True)
time.sleep(float(sys.argv[2]))
if sys.argv[1] == "group":
    os.unlink("/etc/group.lock")
'''
holder = subprocess.Popen(
    [sys.executable, "-c", HOLDER, kind, seconds], stdout=subprocess.PIPE, text=True
)
holder.stdout.readline()
print(holder.pid, flush=True)
system_lock.run_with_users.__kwdefaults__["patience"] = patience
try:
    print(users.make("flatnet-locktest").pw_gecos)
    held = holder.poll() is None
    users.remove("flatnet-locktest")
    print(users.find("flatnet-locktest"), held)
except Exception as error:
    print(type(error).__name__, error)
holder.kill()
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What useradd reads and writes, apart from this machine's own."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "subuid"):
        if Path("/etc", name).exists():
            shutil.copy2(Path("/etc", name), folder)
    for name in ("pam.d", "default", "ld.so.cache"):
        if Path("/etc", name).is_dir():
            shutil.copytree(Path("/etc", name), folder / name, symlinks=True)
        elif Path("/etc", name).exists():
            shutil.copy2(Path("/etc", name), folder)
    return folder


def make_a_user(etc: Path, kind: str, seconds: float, patience: float) -> list[str]:
    words = [str(COLLECTIONS), str(etc), kind, str(seconds), str(patience)]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _MAKE_A_USER, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def test_a_user_is_made_while_a_package_is_installed(etc: Path) -> None:
    """Bad luck: something else holds a lock of the host, here whoever adds a group while a package
    is installed. It is waited for."""
    found = make_a_user(etc, "group", seconds=3, patience=60)
    assert found[1:] == ["flatnet.overlay", "None False"]
    assert f"{_NAME}:" not in (etc / "passwd").read_text()


def test_who_holds_it_for_too_long_is_named(etc: Path) -> None:
    """The same, and it never ends: one sentence after a bounded time."""
    pid, told = make_a_user(etc, "group", seconds=120, patience=1)
    assert told.startswith("HostBusy useradd: cannot lock /etc/group; try again later (for 1 sec")
    assert told.endswith(f"process {pid} ({_COMM}) holds the lock; wait for it, or end it")


def test_whoever_locks_as_libc_does_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by lckpwdf(3), as systemd-sysusers has it, and useradd on some systems."""
    monkeypatch.setattr(system_lock, "_ETC", str(tmp_path))
    assert system_lock.holder() == "another process"
    (tmp_path / ".pwd.lock").touch()
    assert system_lock.holder() == "another process"
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / ".pwd.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert system_lock.holder() == f"process {process.pid} ({_COMM})"
        process.communicate(timeout=30)


def test_the_holder_of_our_own_locks_is_named(tmp_path: Path) -> None:
    """A run of another controller that hangs: one sentence after a bounded time."""
    path = str(tmp_path / "run/installing")
    with lock.locked(1, path):
        name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
        with (
            pytest.raises(lock.Locked) as caught,
            lock.locked(0.2, path, "installing on this host"),
        ):
            pass
    assert str(caught.value) == (
        f"process {os.getpid()} ({name}) has been installing on this host for 0 seconds; wait for "
        "it, or end it"
    )


def test_our_locks_are_nobody_elses(tmp_path: Path) -> None:
    """A local user cannot hold what root's programs wait for: nobody else can open it, whatever the
    umask was."""
    path = tmp_path / "run/lock"
    before = os.umask(0)
    try:
        with lock.locked(1, str(path)):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Somebody who could write in the lock's folder has root open another file: refused."""
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with (
        pytest.raises(lock.Locked, match="cannot be opened"),
        lock.locked(1, str(tmp_path / "lock")),
    ):
        pass
    assert not (tmp_path / "other").exists()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    """Bad luck: kill -9 of whoever holds it."""
    path = tmp_path / "lock"
    code = "import fcntl, os, sys; fcntl.flock(open(sys.argv[1], 'w'), 2); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, path], check=False)
    with lock.locked(0.1, str(path)), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
