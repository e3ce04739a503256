# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's artifact: what users install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path, PurePosixPath

import pytest

from tests.bench.inside import PYTHON, version_of

REPOSITORY = Path(__file__).resolve().parents[2]
GALAXY = Path(sys.executable).with_name("ansible-galaxy")

TOP = set(
    "CONTRIBUTING.md FILES.json LICENSE LICENSES MANIFEST.json README.md changelogs docs meta "
    "playbooks plugins roles tests".split()
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tarfile.TarFile]:
    """Built by `make build` from a clean copy of what git knows, with ansible-core and no more."""
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():  # one that is deleted and not committed yet is listed
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tree / name)
    tools = tmp_path_factory.mktemp("bin")
    for command in ("ansible-galaxy", "bash", "make", "sh", "awk", "mkdir", "rm"):
        found = GALAXY if command == "ansible-galaxy" else shutil.which(command)
        if found:
            (tools / command).symlink_to(found)
    done = subprocess.run(
        [tools / "make", "build"],
        cwd=tree,
        env={**os.environ, "PATH": str(tools), "ANSIBLE_HOME": str(tools / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tree / ".venv").exists()
    assert not (tree / ".cache").exists()
    (path,) = tree.glob("flatnet-overlay-*.tar.gz")
    with tarfile.open(path) as opened:
        yield opened


def names(artifact: tarfile.TarFile) -> set[str]:
    return {each.name for each in artifact.getmembers() if each.isfile()}


def test_the_artifact_holds_what_users_need_and_nothing_else(artifact: tarfile.TarFile) -> None:
    found = names(artifact)
    assert {name.partition("/")[0] for name in found} == TOP
    assert {name for name in found if name.startswith("tests/")} == {"tests/config.yml"}
    assert {PurePosixPath(name).suffix for name in found if name.startswith("docs/")} <= {
        ".md",
        ".svg",
    }


def test_a_page_in_the_artifact_refers_to_nothing_outside(artifact: tarfile.TarFile) -> None:
    found = names(artifact)
    folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
    missing = []
    shown: set[str] = set()
    pages = [name for name in found if name.endswith(".md")]
    for page in pages:
        member = artifact.extractfile(page)
        text = member.read().decode() if member else ""
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            path = os.path.normpath(PurePosixPath(page).parent / target)
            shown.add(path)
            if path not in found | folders:
                missing.append((page, target))
    assert pages
    assert missing == []
    assert {name for name in found if name.endswith(".svg")} <= shown


def test_the_benchmarks_know_which_pyroute2_they_run_with() -> None:
    assert re.match(r"\d+\.\d+", version_of("pyroute2", PYTHON))
    assert re.match(r"\d+\.\d+", version_of("ansible-core", sys.executable))
