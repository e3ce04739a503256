# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad luck: a disk, or /run, has not one block left. Packets go on, and one sentence says so."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import package

from tests.integration.programs import Programs, peer
from tests.lab.waiting import wait


@contextlib.contextmanager
def full(folder: Path) -> t.Iterator[Path]:
    """A folder in which files can be made, and cannot hold anything."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", folder], check=True)
    try:
        with contextlib.suppress(OSError), (folder / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_run_holds_nobody_up(programs: Programs) -> None:
    """/run has no block left, not even for the lock's holder, before the service starts."""
    program = programs.begin()[0]
    with full(program.host.run) as run:
        (run / "flatnet").mkdir()
        (run / "flatnet/lock").touch()
        program.start(ready=False)
        programs.join(peer(100))
        wait(lambda: "10.5.100.0/24" in program.ip("route") or not program.running, "the route")
        assert program.running, program.said()
        wait(lambda: "/run/flatnet/status.json cannot be written: No space" in program.said(), "it")
        assert "Traceback" not in program.said()
        program.kill()


@pytest.mark.parametrize("command", ["once", "watch"])
def test_a_full_disk_is_one_sentence(programs: Programs, tmp_path: Path, command: str) -> None:
    """The disk has no block left for the state that the next boot restores."""
    program = programs.begin()[0]
    programs.join(peer(100))
    with full(tmp_path / "full") as disk:
        program.configure(state_file=str(disk / "state"))
        if command == "once":
            done = program.run("once")
            said = done.stderr
            assert done.returncode == 1
        else:
            program.start()
            wait(lambda: "No space left" in program.errors(), "the error")
            said = program.said()
            program.kill()
        assert "10.5.100.0/24" in program.ip("route")
        assert "Traceback" not in said
        assert f"{disk}/state" in said
        assert "Errno" not in said
        assert [each.name for each in disk.iterdir()] == ["fill"]


@pytest.mark.parametrize("size", ["100k", "400k", "900k"])
def test_a_package_that_has_no_room_leaves_no_part(tmp_path: Path, size: str) -> None:
    """The disk gets full while the sources are written, or while they are compiled. A part that
    stayed would leave even less room for the next attempt."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    try:
        with pytest.raises(package.NotInstalled) as caught:
            package.install(str(disk), sys.executable, "sync")
        assert "No space left on device" in str(caught.value)
        assert "None" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2
        assert list((disk / "lib/flatnet-sync").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        package.install(str(disk), sys.executable, "sync")
        assert package.observe(str(disk), "sync").flaws == ()
    finally:
        subprocess.run(["umount", disk], check=True)
