# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors name options as whoever called knows them: modules by options, roles by variables."""

from __future__ import annotations

import ast
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks, identity
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import (
    FlatnetError,
    InvalidInput,
    called,
    option,
)

REPOSITORY = Path(__file__).resolve().parents[2]
COMMON = yaml.safe_load((REPOSITORY / "roles/common/defaults/main.yml").read_text())
NAMES: dict[str, str] = COMMON["flatnet_etcd"]["option_names"]


def test_an_error_names_options_as_the_caller_does() -> None:
    error = FlatnetError("%s: 1 is odd; set %s" % (option("mtu"), option("force")))
    assert str(error) == "mtu: 1 is odd; set force"
    assert error.told({}) == "mtu: 1 is odd; set force"
    assert error.told({"force": "flatnet_network_force"}) == (
        "mtu: 1 is odd; set flatnet_network_force"
    )


def test_a_part_of_an_option_keeps_its_place() -> None:
    names = {"backend": "flatnet_backend", "leases": "given"}
    assert called(option("backend.vni"), names) == "flatnet_backend.vni"
    assert called(option("leases[3].key"), names) == "given[3].key"
    assert called(option(option("backend")) + "[1]", names) == "flatnet_backend[1]"


def test_a_value_that_looks_like_an_option_stays() -> None:
    with pytest.raises(InvalidInput) as caught:
        checks.mac("vtep_mac", "force")
    assert caught.value.told(NAMES) == "flatnet_vtep_mac: 'force' is not a MAC address"


def test_errors_of_single_values_and_of_the_machine_name_variables() -> None:
    with pytest.raises(InvalidInput) as caught:
        identity.host_id("x")
    assert "or set flatnet_host_id" in caught.value.told(NAMES)


def tasks() -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    for path in sorted((REPOSITORY / "roles").glob("*/tasks/*.yml")):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            for name, given in task.items():
                if name.startswith("flatnet.overlay.") and isinstance(given, dict):
                    yield name.rpartition(".")[2], given


def test_what_roles_set_from_a_variable_is_called_by_its_name() -> None:
    found: dict[str, set[str]] = {}
    for module, given in tasks():
        text = (REPOSITORY / f"plugins/modules/{module}.py").read_text(encoding="utf-8")
        if "flatnet.overlay.etcd\n" not in text:
            continue
        for name, value in given.items():
            variable = re.fullmatch(r"{{ (flatnet_\w+)( \| default\(omit\))? }}", str(value))
            if variable:
                found.setdefault(name, set()).add(variable[1])
    for values in (COMMON["flatnet_etcd"], COMMON["flatnet_host"]):
        for name in values.keys() - {"option_names"}:
            found.setdefault(name, set()).add(f"flatnet_{name}")
    # These two are names for different things, by module; a wrong value is found out before.
    del found["metrics_file"], found["bridge"]
    assert {name: {variable} for name, variable in NAMES.items()} == found


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("plugins/module*/*.py")), ids=lambda path: path.stem
)
def test_no_error_names_an_option_of_the_roles_in_plain_text(path: Path) -> None:
    plain = re.compile(r"\bset (%s)\b" % "|".join(NAMES))
    for raised in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(raised, ast.Raise):
            continue
        for node in ast.walk(raised):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not plain.search(node.value), node.value
