# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of Ansible against a lab, and what they cost the controller."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from .inside import REPOSITORY


class PlayFailed(Exception):
    """A playbook did not end well; the message has its output."""


@dataclass(frozen=True)
class Cost:
    """Of one run: ``cpu`` are seconds of the controller, ``hosts`` those of processes on hosts."""

    wall: float
    cpu: float
    hosts: float
    results: list[dict[str, t.Any]]
    sent: int

    def tasks(self, host: str) -> int:
        """Those that ran on the host: a skipped one costs little."""
        return sum(each["host"] == host and not each.get("skipped") for each in self.results)

    @property
    def changed(self) -> int:
        return sum(each["changed"] for each in self.results)

    def slowest(self) -> list[tuple[str, float]]:
        """Tasks by the seconds that all hosts together waited for them."""
        total: dict[str, float] = {}
        for each in self.results:
            total[each["task"]] = total.get(each["task"], 0.0) + each["seconds"]
        return sorted(total.items(), key=lambda item: -item[1])


def play(playbook: Path, inventory: Path, record: Path, *arguments: str) -> Cost:
    """One run of a playbook, with the configuration that is shipped."""
    record.write_bytes(b"")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            str(playbook),
            "-i",
            str(inventory),
            *arguments,
        ],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).with_name("callback")),
            "ANSIBLE_CALLBACKS_ENABLED": "cost",
            "COST_FILE": str(record),
        },
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise PlayFailed((done.stdout + done.stderr)[-4000:])
    records = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    # In a lab the controller's processes have those on hosts for children.
    hosts = sum(each["cpu"] for each in records if "cpu" in each)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(
        wall,
        cpu - hosts,
        hosts,
        [each for each in records if "task" in each],
        sum(each["sent"] for each in records if "sent" in each),
    )
