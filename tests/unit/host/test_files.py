# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files put in place and taken away; what a user may do to them is in attacks/test_files."""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import files


@pytest.mark.parametrize("act", [files.remove, files.clean])
@pytest.mark.parametrize("name", ["a", "no/such/folder/a", "file/a"])
def test_where_nothing_is_nothing_is_taken_away(
    act: t.Callable[[str], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    act(str(tmp_path / name))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


class Told:
    """What is asked of the disk, in order. A draft has another name each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        fsync, rename, unlink, mkdir = os.fsync, os.rename, os.unlink, os.mkdir

        def told_fsync(descriptor: int) -> None:
            self._tell("sync", os.readlink("/proc/self/fd/%d" % descriptor))
            fsync(descriptor)

        def told_rename(before: str, after: str, **folders: int) -> None:
            self._tell("rename to", after)
            rename(before, after, **folders)

        def told_unlink(name: str, **folder: int) -> None:
            self._tell("unlink", name)
            unlink(name, **folder)

        def told_mkdir(name: str, mode: int, **folder: int) -> None:
            self._tell("mkdir", name)
            mkdir(name, mode, **folder)

        monkeypatch.setattr(os, "fsync", told_fsync)
        monkeypatch.setattr(os, "rename", told_rename)
        monkeypatch.setattr(os, "unlink", told_unlink)
        monkeypatch.setattr(os, "mkdir", told_mkdir)

    def _tell(self, what: str, path: str) -> None:
        name = os.path.basename(path)
        self.done.append("%s %s" % (what, "draft" if name.endswith(".new") else name))


def test_each_step_is_on_disk_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may lose its power at any moment. Then it has no file without its content, and none
    that was removed before another one was."""
    path = str(tmp_path / "folder/file")
    told = Told(monkeypatch)
    files.replace(path, b"content", 0o644)
    made = ["mkdir folder", "sync " + tmp_path.name]
    assert told.done == [*made, "sync draft", "rename to file", "sync folder"]
    told.done.clear()
    files.remove(path)
    assert told.done == ["unlink file", "sync folder"]


@pytest.mark.parametrize(
    ("mode", "content", "after"),
    [(0o700, False, 0o755), (0o700, True, 0o700), (0o750, False, 0o750)],
)
def test_a_folder_that_a_run_cut_short_has_left_is_made_whole(
    mode: int, content: bool, after: int, tmp_path: Path
) -> None:
    """And one that somebody chose to have so is not."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    folder.chmod(mode)
    if content:
        (folder / "file").write_text("somebody's")
    for dummy in range(2):
        files.make_folder(str(folder), os.getuid(), os.getgid())
        assert stat.S_IMODE(folder.stat().st_mode) == after
