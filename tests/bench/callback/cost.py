# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible callback: what a run costs, by host and by task."""

from __future__ import annotations

import json
import os
import resource
import time
import typing as t

from ansible.plugins.callback import CallbackBase
from ansible_collections.flatnet.overlay.plugins.connection.netns import Connection

DOCUMENTATION = r"""
name: cost
type: aggregate
short_description: Counts tasks, seconds and bytes sent
description:
  - Writes to the file that the environment variable COST_FILE names, a line of JSON for each result
    and for each transfer.
requirements:
  - enabled in the configuration
"""


def _write(**record: t.Any) -> None:
    # One write, since the processes that run tasks write as well.
    with open(os.environ["COST_FILE"], "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def _children() -> float:
    """CPU seconds of child processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch_connections() -> None:
    """Have the connection plugin tell what it sends and what CPU time that takes on the host; tasks
    run in processes forked from this one."""
    execute, put = Connection.exec_command, Connection.put_file

    def exec_command(
        self: t.Any, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> t.Any:
        before = _children()
        try:
            return execute(self, cmd, in_data, sudoable)
        finally:
            _write(sent=len(cmd) + len(in_data or b""), cpu=_children() - before)

    def put_file(self: t.Any, in_path: str, out_path: str) -> None:
        before = _children()
        put(self, in_path, out_path)
        _write(sent=os.path.getsize(in_path), cpu=_children() - before)

    Connection.exec_command, Connection.put_file = exec_command, put_file


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cost"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        _watch_connections()
        self._started: dict[tuple[str, str], float] = {}

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        self._started[host.get_name(), task._uuid] = time.monotonic()

    def _done(self, result: t.Any, **state: bool) -> None:
        host, task = result._host.get_name(), result._task
        _write(
            host=host,
            task=task.get_name(),
            changed=bool(result._result.get("changed")),
            seconds=time.monotonic() - self._started.get((host, task._uuid), time.monotonic()),
            **state,
        )

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._done(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        del ignore_errors
        self._done(result, failed=True)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._done(result, skipped=True)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._done(result, failed=True)
