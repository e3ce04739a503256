# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files put in place and taken away; what a user may do to them is in test_attacks_files."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils import files


@pytest.mark.parametrize("act", [files.remove, files.clean])
@pytest.mark.parametrize("name", ["a", "no/such/folder/a", "file/a"])
def test_where_nothing_is_nothing_is_taken_away(
    act: t.Callable[[str], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    act(str(tmp_path / name))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
