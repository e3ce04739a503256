# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program's package on a host consists of."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import package

REPOSITORY = Path(__file__).resolve().parents[3]
_IMPORTS = """
import sys
import flatnet.%s.command
print(*(name for name in sys.modules if name.startswith("flatnet.")))
"""


def imported(program: str, top: Path) -> set[str]:
    """The package's modules that a program imports; ``top`` has the package."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS % program],
        env={"PYTHONPATH": str(top)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {re.sub(r"^flatnet\.", "", name).replace(".", "/") for name in done.stdout.split()}


SUPERVISOR = {"install", "install/supervisor"}


def modules(paths: Iterable[str]) -> set[str]:
    return {re.sub(r"(/__init__)?\.py$", "", path) for path in paths}


PROGRAMS = pytest.mark.parametrize("program", package.COMMANDS)


@PROGRAMS
def test_it_is_what_the_program_imports_and_the_supervisor(program: str, tmp_path: Path) -> None:
    for path, content in package.sources(program).items():
        file = tmp_path / "flatnet" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    found = imported(program, tmp_path)
    assert modules(package.sources(program)) == found | {"__init__"} | SUPERVISOR


def test_a_program_consists_of_what_it_needs() -> None:
    assert "relay/vector_format.py" in package.sources("relay")
    assert "etcd/client.py" not in package.sources("relay")
    assert "relay/vector_format.py" not in package.sources("sync")


@PROGRAMS
def test_nothing_of_ansible_is_in_it(program: str) -> None:
    for path, content in package.sources(program).items():
        assert b"import ansible" not in content, path
        assert b"from ansible" not in content, path


@PROGRAMS
def test_its_version_is_the_collections(program: str) -> None:
    found = re.search(r"^version: (.+)$", (REPOSITORY / "galaxy.yml").read_text(), re.MULTILINE)
    assert found
    assert found[1] == package.VERSION
    assert re.fullmatch(re.escape(found[1]) + "-[0-9a-f]{12}", package.version(program))


def test_what_others_have_beside_the_package_of_earlier_versions_stays(tmp_path: Path) -> None:
    """Where the prefix is /var, it was in the folder of the state."""
    shared = tmp_path / "lib/flatnet"
    (shared / "0.1.0-0123456789ab/flatnet").mkdir(parents=True)
    (shared / "0.1.0-0123456789ab+01234567/flatnet").mkdir(parents=True)
    for name in ("current", "current.01234567"):
        (shared / name).symlink_to("0.1.0-0123456789ab")
    (shared / "state").write_text("")
    (shared / "current.txt").write_text("")
    (shared / "0.1.0").mkdir()
    package.remove(str(tmp_path), "sync")
    assert {path.name for path in shared.iterdir()} == {"state", "current.txt", "0.1.0"}
    package.remove(str(tmp_path), "sync")
    assert shared.exists()


def test_a_folder_of_others_by_the_name_of_the_package_of_earlier_versions_stays(
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere/0.1.0-0123456789ab/flatnet").mkdir(parents=True)
    (tmp_path / "elsewhere/current").symlink_to("0.1.0-0123456789ab")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/flatnet").symlink_to("../elsewhere")
    package.remove(str(tmp_path), "relay")
    assert (tmp_path / "lib/flatnet/current/flatnet").is_dir()
