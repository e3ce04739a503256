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
