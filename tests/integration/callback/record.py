# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible callback: writes every result down as a line of JSON, and can kill the run."""

from __future__ import annotations

import json
import os
import signal
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: record
type: aggregate
short_description: Records results for the tests
description:
  - Writes to the file that the environment variable RECORD_FILE names.
  - Kills the run, as a lost controller does, when the first host has done the task that RECORD_KILL
    names.
requirements:
  - enabled in the configuration
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, result: t.Any, **state: bool) -> None:
        values = result._result
        record = {
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            "changed": bool(values.get("changed")),
            "diff": values.get("diff"),
            "msg": values.get("msg"),
            "warnings": values.get("warnings", []),
            **state,
        }
        with open(os.environ["RECORD_FILE"], "a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")
        if record["task"].endswith(os.environ.get("RECORD_KILL", "\0")):
            os.kill(os.getpid(), signal.SIGKILL)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._write(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        del ignore_errors
        self._write(result, failed=True)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._write(result, skipped=True)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._write(result, unreachable=True)
