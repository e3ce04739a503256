# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's modules as Ansible ships them to a host, with all that they import."""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.integration.namespace import TARGET_PYTHON, Namespace, same

pytestmark = pytest.mark.matrix

Ansible = t.Callable[..., "subprocess.CompletedProcess[str]"]

DEVICE = "flannel.1"
TASKS: list[dict[str, t.Any]] = [
    {"bridge": {"name": "cni0", "addresses": ["10.5.1.1/24"], "mtu": 1450}},
    {"vxlan_vtep": {"local": "172.30.1.11", "device": "u0", "addresses": ["10.5.1.0/32"]}},
    {
        "neigh_entry": {
            "device": DEVICE,
            "entries": [{"address": "10.5.2.0", "mac": "02:00:00:00:00:05"}],
            "exclusive": True,
        }
    },
    {
        "fdb_entry": {
            "device": DEVICE,
            "entries": [{"mac": "02:00:00:00:00:05", "dst": "172.30.1.12"}],
            "exclusive": True,
        }
    },
    {
        "route_entry": {
            "device": DEVICE,
            "entries": [{"prefix": "10.5.2.0/24", "gateway": "10.5.2.0", "onlink": True}],
            "exclusive": True,
        }
    },
]


def test_a_run_from_nothing_its_prediction_and_its_repetition(
    ns: Namespace, ansible: Ansible, tmp_path: Path
) -> None:
    play = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {f"flatnet.overlay.{name}": args} for task in TASKS for name, args in task.items()
        ],
    }
    book = tmp_path / "play.json"
    book.write_text(json.dumps([play]), encoding="utf-8")
    variables = {
        "ansible_connection": "flatnet.overlay.netns",
        "ansible_python_interpreter": TARGET_PYTHON,
    }

    def run(*more: str) -> str:
        done = ansible(
            *("ansible-playbook", "-i", f"{ns.name},", "-e", json.dumps(variables)),
            *("--diff", str(book), *more),
            ANSIBLE_CHECK_MODE_MARKERS="false",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    before = ns.state()
    planned = run("--check")
    same(before, ns.state())
    done = run()
    assert "changed=5 " in done
    # Word by word, diffs included.
    same(planned, done)
    after = ns.state()
    assert "changed=0 " in run()
    same(after, ns.state())
