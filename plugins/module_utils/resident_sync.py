# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-sync`` on a host: see resident.py."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import package, resident, services
from ._etcd.cluster import CALL
from .errors import InvalidInput
from .resident import File
from .services import Service
from .settings import DEFAULT_PATH, InvalidSettings, Settings, load, to_json

RESTORE, SYNC = "flatnet-restore.service", "flatnet-sync.service"
ONCE, TIMER = "flatnet-sync-once.service", "flatnet-sync.timer"
# With systemd: what each way of running it needs.
MODES = {"service": (RESTORE, SYNC), "timer": (RESTORE, ONCE, TIMER), "none": (RESTORE,)}


class Wanted(NamedTuple):
    """``units`` are the texts of systemd's units by name, on a host that has it."""

    settings: Settings
    mode: str
    python: str
    units: Mapping[str, str]


class Plan(resident.Plan):
    """``wanted`` None: nothing of it is to be left. ``planned``: the package's version after what
    earlier tasks of the same check-mode run would have done."""

    program = "sync"
    units = (RESTORE, SYNC, ONCE, TIMER)
    starting = (SYNC, ONCE)
    once = (ONCE,)

    def __init__(self, prefix: str, wanted: Wanted | None, planned: str | None = None) -> None:
        self._wanted = wanted
        text = to_json(wanted.settings) if wanted else ""
        super().__init__(
            prefix,
            wanted.python if wanted else None,
            [File(DEFAULT_PATH, text, 0o600)],
            obsolete=sorted(_files(_installed_settings()) - _files(wanted and wanted.settings)),
            traces=[Settings().status_file],
            planned=planned,
        )
        if wanted:
            # It says that it runs after a listing and a watch, or after the first call that failed.
            self.patience = 2 * CALL * wanted.settings.etcd.timeout + 15

    def shown(self, file: File, before: str) -> tuple[str, str]:
        if file.path != DEFAULT_PATH:
            return super().shown(file, before)
        same = _password(before) == _password(file.content)
        return _masked(before, "hidden"), _masked(file.content, "hidden" if same else "another one")

    def services(self) -> list[Service]:
        wanted = self._wanted
        if wanted is None:
            return []
        if self.systemd:
            names = MODES[wanted.mode]
            missing = [name for name in names if not wanted.units.get(name)]
            if missing:
                raise InvalidInput(
                    "units: systemd runs this host, so mode %s needs the text of %s"
                    % (wanted.mode, " and ".join(missing))
                )
            return [
                Service(name, wanted.units[name], name != ONCE, name in (SYNC, TIMER) or None)
                for name in names
            ]
        if wanted.mode == "none":
            return []
        if wanted.mode == "service":
            text = services.definition([self.command, "watch"])
        else:
            text = services.definition([self.command, "once"], wanted.settings.check_interval)
        return [Service(package.COMMANDS[self.program], text, True, True)]

    def carry_out(self) -> None:
        super().carry_out()
        if self._wanted and self._wanted.mode == "none":
            # Nothing else leaves on disk what is restored at boot.
            services.run([self.command, "once"])

    def prepare(self) -> None:
        if self._wanted and self._wanted.settings.metrics_file:
            os.makedirs(os.path.dirname(self._wanted.settings.metrics_file), exist_ok=True)

    def problem(self, begin: float) -> str:
        if self._wanted is None or not self.restarts:
            return ""
        started = status(self._wanted.settings).get("started", 0.0)
        return "" if started >= begin else "it tells nothing"


def status(settings: Settings) -> dict[str, Any]:
    """What the program says about itself; empty if nothing."""
    try:
        found = json.loads(services.read_file(settings.status_file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _installed_settings() -> Settings | None:
    try:
        return load(DEFAULT_PATH)
    except InvalidSettings:
        return None


def _files(settings: Settings | None) -> set[str]:
    """What the program writes for itself, and nobody else."""
    if settings is None:
        return set()
    return {path for path in (settings.state_file, settings.metrics_file) if path}


def _password(text: str) -> str:
    try:
        return str(json.loads(text)["etcd"]["password"])
    except (ValueError, KeyError, TypeError):
        return ""


def _masked(text: str, password: str) -> str:
    """Settings as they may be shown."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return "(not JSON)\n"
    if not _password(text):
        return text
    found["etcd"]["password"] = password
    return json.dumps(found, indent=2, sort_keys=True) + "\n"
