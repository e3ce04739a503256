# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules may return: the keys that they document, and those that Ansible gives a meaning."""

from __future__ import annotations

import ast
import functools
import typing as t
from pathlib import Path

import yaml

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"

# What Ansible, its strategies and its callbacks read in every module's result, in any version that
# we support. `skipped` as a list makes a play show `skipping`, `changed=0` and no diff.
RESERVED = frozenset(
    "ansible_facts ansible_included_var_files ansible_job_id ansible_loop ansible_loop_var "
    "ansible_notify ansible_stats add_group add_host async_result attempts changed censored "
    "deprecations diff exception failed failed_when_result finished include include_args "
    "invocation item module_stderr module_stdout msg no_log parent_groups rc results retries "
    "skip_reason skipped skipped_reason started stderr stderr_lines stdout stdout_lines "
    "suppress_tmpdir_delete unreachable warnings".split()
)

# Of these, what our modules return in Ansible's own sense, and what it then is.
USED: dict[str, tuple[type, ...]] = {
    "changed": (bool,),
    "failed": (bool,),
    "diff": (dict, list),
    "msg": (str,),
    "exception": (str, dict),
    "invocation": (dict,),
    "warnings": (list,),
    "deprecations": (list,),
}


def constants(module: Path) -> dict[str, str]:
    """The texts at the top of a module's file, such as DOCUMENTATION; nothing is imported."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def modules() -> list[str]:
    return sorted(path.stem for path in MODULES.glob("*.py"))


@functools.cache
def documented(module: str) -> frozenset[str]:
    """The keys that a module's documentation says it returns."""
    return frozenset(yaml.safe_load(constants(MODULES / f"{module}.py")["RETURN"]) or ())


def faults(module: str, result: t.Mapping[str, t.Any]) -> list[str]:
    """What is wrong with the keys of a result that a module of ours returned."""
    found = []
    for key, value in result.items():
        if key in USED:
            if not isinstance(value, USED[key]):
                found.append(f"{module} returns {key}={value!r}, which Ansible reads otherwise")
        elif key in RESERVED or key.startswith("_ansible_"):
            found.append(f"{module} returns {key}, which is Ansible's own")
        elif key not in documented(module):
            found.append(f"{module} returns {key}, which is not documented")
    return found
