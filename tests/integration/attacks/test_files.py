# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the files that root's programs write, by a local user and by bad luck.

The user is nobody, who really tries: the code under attack runs as root, in a process of its own
where it is to be killed.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import files

DRAFT = re.compile(r"\.[\w.]+\.[0-9a-f]{16}\.new")
SECRET = b"s3cr3t-of-the-test"
_COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".cache/collections")
_IMPORT = (
    f"sys.path.insert(0, {_COLLECTIONS!r})\n"
    "from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import files"
)


@pytest.fixture
def top() -> t.Iterator[Path]:
    """A folder of root's that everybody can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="flatnet-attack-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def theirs(top: Path) -> Path:
    """A folder of the user's, as node_exporter's own."""
    folder = top / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    return folder


def as_nobody(code: str, **more: t.Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", code],
        user=65534,
        group=65534,
        extra_groups=(),
        text=True,
        stdout=subprocess.PIPE,
        cwd="/",
        **more,
    )


def done_as_nobody(code: str) -> None:
    with as_nobody(code) as process:
        assert process.wait(30) == 0


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if DRAFT.fullmatch(path.name)]


def test_predictable_names_lead_nowhere(top: Path, theirs: Path) -> None:
    """A local user in whose folder root writes metrics places links and hard links at every name
    that could be a draft's, to have root write or chmod another file."""
    victim = top / "victim"
    victim.write_bytes(b"root's own\n")
    victim.chmod(0o600)
    pids = range(os.getpid() - 5, os.getpid() + 50)
    done_as_nobody(
        "import os\n"
        f"os.chdir({str(theirs)!r})\n"
        f"for pid in range({pids.start}, {pids.stop}):\n"
        f"    os.symlink({str(victim)!r}, f'flatnet.prom.{{pid}}.new')\n"
        f"os.symlink({str(victim)!r}, '.flatnet.prom.new')\n"
        f"os.symlink({str(victim)!r}, 'flatnet.prom')\n"
    )
    files.publish(str(theirs / "flatnet.prom"), b"flatnet_connected 1\n")
    assert victim.read_bytes() == b"root's own\n"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    found = (theirs / "flatnet.prom").lstat()
    assert stat.S_ISREG(found.st_mode)
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o644)


def test_a_folder_that_becomes_a_link(top: Path, theirs: Path) -> None:
    """A local user owns the folder above, and puts a link to a folder of root's in the place of the
    one that metrics are written to: refused with a sentence, nothing is written there."""
    goal = top / "etc"
    goal.mkdir()
    done_as_nobody(f"import os; os.symlink({str(goal)!r}, {str(theirs / 'metrics')!r})")
    with pytest.raises(PermissionError) as caught:
        files.publish(str(theirs / "metrics/flatnet.prom"), b"x")
    assert caught.value.filename == str(theirs / "metrics/flatnet.prom")
    assert caught.value.strerror == (
        "metrics in its path is a symbolic link that another user may have placed; give the path "
        "of the folder that the link leads to"
    )
    with pytest.raises(PermissionError):
        files.make_folder(str(theirs / "metrics/deeper"), 65534, 65534)
    assert list(goal.iterdir()) == []


def test_a_folder_that_is_swapped_all_the_time(top: Path, theirs: Path) -> None:
    """The same, by a user who swaps folder and link as fast as possible while root writes."""
    goal = top / "etc"
    goal.mkdir()
    (goal / "flatnet.prom").write_bytes(b"root's own\n")
    code = (
        "import os\n"
        f"os.chdir({str(theirs)!r})\n"
        "os.mkdir('folder')\n"
        f"os.symlink({str(goal)!r}, 'link')\n"
        "print(flush=True)\n"
        "count = 0\n"
        "while True:\n"
        "    for name in ('folder', 'link'):\n"
        "        try:\n"
        "            os.rename(name, 'metrics'); os.rename('metrics', name)\n"
        "        except OSError:\n"  # root's process made the folder
        "            count += 1; os.rename('metrics', 'made-%d' % count)\n"
    )
    written = refused = 0
    with as_nobody(code) as attacker:
        assert attacker.stdout
        attacker.stdout.readline()
        until = time.monotonic() + 60
        while (written < 50 or refused < 50) and time.monotonic() < until:
            try:
                files.publish(str(theirs / "metrics/flatnet.prom"), b"x")
                written += 1
            except OSError:
                refused += 1
        attacker.kill()
    assert written
    assert refused
    assert [path.name for path in goal.iterdir()] == ["flatnet.prom"]
    assert (goal / "flatnet.prom").read_bytes() == b"root's own\n"


def test_links_of_roots_are_followed(top: Path) -> None:
    """No attack: /var/run is a link on every host."""
    (top / "run").mkdir()
    (top / "var").symlink_to("run")
    files.replace(str(top / "var/flatnet/status.json"), b"{}", 0o644)
    assert (top / "run/flatnet/status.json").read_bytes() == b"{}"


def test_what_we_read_back_is_not_kept_in_the_folder_of_others(top: Path, theirs: Path) -> None:
    """A local user could put another state or other settings in the place of root's."""
    for path, text in (
        (theirs / "state", "its folder belongs to user 65534, so another user could replace"),
        (top / "open/state", "its folder lets everybody write"),
    ):
        path.parent.mkdir(exist_ok=True)
        if path.parent.name == "open":
            path.parent.chmod(0o777)
        with pytest.raises(PermissionError, match=text):
            files.replace(str(path), SECRET, 0o600)
        assert list(path.parent.iterdir()) == []


def test_a_draft_is_nobody_elses_to_read(top: Path) -> None:
    """A local user watches root's folder for drafts with a password, and opens what comes."""
    code = (
        "import os, sys\n"
        f"os.chdir({str(top)!r})\n"
        "seen = set()\n"
        "print(flush=True)\n"
        "while 'stop' not in seen:\n"
        "    for name in os.listdir('.'):\n"
        "        seen.add(name)\n"
        "        try:\n"
        "            if b'cr3t' in open(name, 'rb').read(): print(name)\n"
        "        except OSError: pass\n"
        "print(len(seen))\n"
    )
    with as_nobody(code) as attacker:
        assert attacker.stdout
        attacker.stdout.readline()
        for dummy in range(500):
            files.replace(str(top / "sync.json"), SECRET, 0o600)
        (top / "stop").touch()
        printed = attacker.communicate(timeout=60)[0].split()
    assert len(printed) == 1, "it was read"


def killed_while_writing(path: Path, content: bytes) -> None:
    """A process of root's, killed once all is written and before it is in place."""
    code = (
        f"import os, signal, sys; {_IMPORT}\n"
        "os.rename = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.replace({str(path)!r}, {content!r}, 0o600)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_a_kill_leaves_no_password(top: Path) -> None:
    """Bad luck: kill -9 while settings with a password are written. The next run for the same file,
    whether it writes, removes, or has nothing to write, clears the draft away."""
    path = top / "sync.json"
    for follow in (
        lambda: files.replace(str(path), b"{}", 0o600),
        lambda: files.remove(str(path)),
        lambda: files.clean(str(path)),
    ):
        path.write_bytes(b"before")
        killed_while_writing(path, SECRET)
        assert path.read_bytes() == b"before"
        assert len(drafts(top)) == 1
        assert stat.S_IMODE((top / drafts(top)[0]).stat().st_mode) == 0o600
        follow()
        assert drafts(top) == []
        path.unlink(missing_ok=True)


def test_only_drafts_of_ours_are_cleared_away(top: Path, theirs: Path) -> None:
    """A local user names files as drafts are named: links, a pipe that blocks whoever opens it, a
    file of the user's own, a second name of root's."""
    names = [".flatnet.prom.%016x.new" % number for number in range(6)]
    victim = top / "victim"
    victim.write_bytes(b"root's own\n")
    done_as_nobody(
        "import os\n"
        f"os.chdir({str(theirs)!r})\n"
        f"os.symlink({str(victim)!r}, {names[0]!r})\n"
        f"os.mkfifo({names[1]!r})\n"
        f"os.mkdir({names[2]!r})\n"
        f"open({names[3]!r}, 'w').close()\n"
    )
    os.link(victim, theirs / names[4])
    (theirs / names[5]).write_bytes(b"left by a run of root's")
    files.publish(str(theirs / "flatnet.prom"), b"x")
    assert sorted(drafts(theirs)) == names[:5]
    assert victim.read_bytes() == b"root's own\n"


def test_writers_of_one_file_do_not_disturb_each_other(top: Path) -> None:
    """No attack: the service, a run of it by hand and a playbook write one status at once."""
    code = (
        f"import sys; {_IMPORT}\n"
        f"for n in range(300): files.replace({str(top / 'status')!r}, sys.argv[1].encode() * 9999, "
        "0o644)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, letter]) for letter in "abcd"]
    assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    content = (top / "status").read_text()
    assert content == content[0] * 9999
    assert [path.name for path in top.iterdir()] == ["status"]


def test_a_full_disk_leaves_the_file_as_it_was(top: Path) -> None:
    """Bad luck: the disk is full."""
    disk = top / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        path = disk / "state"
        files.replace(str(path), b"before", 0o600)
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.replace(str(path), b"x" * 100_000, 0o600)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"before"
        assert [each.name for each in disk.iterdir()] == ["state"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_is_not_there_is_removed_already(top: Path) -> None:
    """No attack: neither the file nor its folder is there."""
    (top / "file").touch()
    for path in (top / "no", top / "no/file", top / "file/no"):
        files.remove(str(path))
        files.clean(str(path))
    assert [path.name for path in top.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written(top: Path) -> None:
    """Bad luck: the file system became read-only."""
    disk = top / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        path = disk / "state"
        files.replace(str(path), b"before", 0o600)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            files.replace(str(path), b"after", 0o600)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"before"
    finally:
        subprocess.run(["umount", disk], check=True)
