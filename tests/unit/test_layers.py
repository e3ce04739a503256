# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core's layers, as CONTRIBUTING.md has them: a file has its row, and imports no later one."""

from __future__ import annotations

import ast
import re
import typing as t
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = REPOSITORY / "plugins/module_utils"
FILES = {str(path.relative_to(CORE).with_suffix("")): path for path in CORE.rglob("*.py")}


def rows() -> dict[str, int]:
    """By what the table names, a file or a folder with a slash at its end, in which row that is."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("| files | subject | pure |\n|---|---|---|\n")[1].split("\n\n")[0]
    found: dict[str, int] = {}
    for number, line in enumerate(table.splitlines()):
        for name in re.findall("`([^`]+)`", line.split("|")[1]):
            assert name not in found, f"{name} is in two rows"
            found[name] = number
    return found


ROWS = rows()


def row(name: str) -> int:
    """That of a file: by its own name, else by its folder's."""
    return ROWS[name] if name in ROWS else ROWS[name.rpartition("/")[0] + "/"]


def imported(name: str) -> t.Iterator[str]:
    """What a file imports, also within functions: files of the core, and other modules' names."""
    folder, text = FILES[name].parent, FILES[name].read_text(encoding="utf-8")
    yield from re.findall(r'import_module\("([^"]+)"', text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.ImportFrom):
            start = [folder, *folder.parents][node.level - 1]
            for each in node.names:
                place = start.joinpath(*(node.module or "").split("."))
                # A name may be a file of a folder, or what is in a file.
                file = place / each.name if place.is_dir() else place
                yield str(file.relative_to(CORE))


def test_every_file_has_its_row_and_every_row_its_files() -> None:
    folders = {name.rpartition("/")[0] + "/" for name in FILES} - {"/"}
    assert ROWS.keys() <= FILES.keys() | folders
    missing = [
        name for name in FILES if name not in ROWS and name.rpartition("/")[0] + "/" not in ROWS
    ]
    assert missing == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_from_its_own_row_and_those_above(name: str) -> None:
    own = [each for each in imported(name) if each in FILES]
    folder = name.rpartition("/")[0]
    # Within a folder, the table has only what others import of it.
    others = [each for each in own if not folder or each.rpartition("/")[0] != folder]
    assert [each for each in others if row(each) > row(name)] == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_some_import_ansible_and_pyroute2(name: str) -> None:
    found = {each.partition(".")[0] for each in imported(name)}
    assert "ansible" not in found or name.startswith("module")
    assert ("pyroute2" in found) == (name == "devices")
