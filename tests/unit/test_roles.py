# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read of the roles: each one's page, its description, and what ansible-doc shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (REPOSITORY / "roles").iterdir() if path.is_dir())
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def read(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def options(role: Path) -> dict[str, t.Any]:
    """The variables that a role documents as its own."""
    specs = read(role / "meta/argument_specs.yml")["argument_specs"]
    return {name: each for spec in specs.values() for name, each in spec.get("options", {}).items()}


@each_role
def test_a_page_lists_the_variables_with_their_defaults(role: Path) -> None:
    page = (role / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(flatnet_\w+)` \| (?:`(.*?)`|required)? ?\|", page, re.MULTILINE)
    assert [name for name, _default in rows] == list(options(role))
    for name, default in rows:
        wanted = options(role)[name].get("default", "")
        assert default == (str(wanted).lower() if isinstance(wanted, bool) else str(wanted))


@each_role
def test_a_page_shows_a_play_of_roles_that_there_are(role: Path) -> None:
    page = (role / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    names = {path.name for path in ROLES}
    if role.name != "common":
        (play,) = yaml.safe_load(example)
        steps = [name.rpartition(".")[2] for name in play["roles"]]
        assert steps[-1] == role.name
        assert set(steps) <= names
    assert yaml.safe_load(example)


@each_role
def test_a_role_says_what_it_is(role: Path) -> None:
    about = read(role / "meta/main.yml")["galaxy_info"]
    assert len(about["description"]) > 20
    assert about["license"] == "GPL-3.0-or-later"


@each_role
def test_tasks_from_others_are_documented_entry_points(role: Path) -> None:
    entries = set(read(role / "meta/argument_specs.yml")["argument_specs"])
    files = {path.stem for path in (role / "tasks").glob("*.yml")}
    # What is no task file has a list of variables, or a text; what is no entry is a part of main.
    assert entries - {"variables", "look"} | {"main"} == files - {"install", "host"} | {"main"}


def test_ansible_doc_shows_every_role_with_its_variables() -> None:
    names = [f"flatnet.overlay.{role.name}" for role in ROLES]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-doc")), "-t", "role", "--json", *names],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".cache" / "collections"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    shown = json.loads(done.stdout)
    for role in ROLES:
        entries = shown[f"flatnet.overlay.{role.name}"]["entry_points"]
        told = {name for entry in entries.values() for name in entry.get("options", {})}
        assert told == set(options(role))


def test_the_readme_names_every_variable_or_says_where_they_are() -> None:
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for role in ROLES:
        assert f"(roles/{role.name}/README.md)" in page
    known = {name for role in ROLES for name in options(role)}
    named = set(re.findall(r"`(flatnet_\w+)`", page))
    modules = {path.stem for path in (REPOSITORY / "plugins/modules").glob("*.py")}
    assert named - known - modules == set()
