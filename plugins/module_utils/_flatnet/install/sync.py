# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-sync`` on a host: see installation.py."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidInput
from ..etcd.cluster import CALL
from ..host.processes import born, run, ticks
from ..sync.settings import DEFAULT_PATH, InvalidSettings, Settings, load, to_json
from . import installation, package, services
from .installation import File, NotReady, Rests
from .services import Service

RESTORE, SYNC = "flatnet-restore.service", "flatnet-sync.service"
ONCE, TIMER = "flatnet-sync-once.service", "flatnet-sync.timer"
# With systemd: what each way of running it needs.
MODES = {"service": (RESTORE, SYNC), "timer": (RESTORE, ONCE, TIMER), "none": (RESTORE,)}

_MOST_CONTROLLERS = 16


class Wanted(NamedTuple):
    """``units`` are the texts of systemd's units by name, on a host that has it."""

    settings: Settings
    mode: str
    python: str
    units: Mapping[str, str]


class Plan(installation.Plan):
    """``wanted`` None: nothing of it is to be left. ``planned``: the package's version after what
    earlier tasks of the same check-mode run would have done."""

    program = "sync"
    units = (RESTORE, SYNC, ONCE, TIMER)
    starting = (SYNC, ONCE)
    once = (ONCE,)

    def __init__(self, prefix: str, wanted: Wanted | None, planned: str | None = None) -> None:
        self._wanted = wanted
        if wanted:
            # It says that it runs after a listing and a watch, or after the first call that failed.
            self.patience = 2 * CALL * wanted.settings.etcd.timeout + 15
            if wanted.mode != "none":
                self.speaker = SYNC if wanted.mode == "service" else ONCE
                if not services.has_systemd():
                    self.speaker = package.COMMANDS[self.program]
        text = to_json(wanted.settings) if wanted else ""
        super().__init__(
            prefix,
            wanted.python if wanted else None,
            [File(DEFAULT_PATH, text, 0o600)],
            obsolete=_rests(_installed_settings())
            .and_of(installation.rests(self.program))
            .without(_rests(wanted and wanted.settings)),
            traces=[Settings().status_file],
            planned=planned,
        )

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
            begin = ticks()
            dummy, output = run([self.command, "once"])
            if (status(self._wanted.settings).get("born") or 0) < begin:
                raise NotReady(
                    "'%s once' says nothing about itself: %s" % (self.command, output.strip())
                )

    def prepare(self) -> None:
        if self._wanted and self._wanted.settings.metrics_file:
            os.makedirs(os.path.dirname(self._wanted.settings.metrics_file), exist_ok=True)

    def silence(self, begin: int) -> str:
        if self._wanted is None or not self.speaker:
            return ""
        found = status(self._wanted.settings)
        if (found.get("born") or 0) < begin or "updated_monotonic" not in found:
            return "it tells nothing"
        # It looks at everything now and then, and says so; etcd may keep it waiting meanwhile.
        longest = 3 * self._wanted.settings.check_interval + 2 * self.patience + 60
        if not 0 <= time.monotonic() - found["updated_monotonic"] < longest:
            return "it has told nothing for more than %d seconds" % longest
        pid = found["pid"] or 0
        if self._wanted.mode == "service" and not (
            born(pid) is not None
            and born(pid) == found["born"]
            and self._manager.runs(self.speaker, pid)
        ):
            return "what told something last is not the process that runs"
        return ""


def status(settings: Settings) -> dict[str, Any]:
    """What the program says about itself; empty if nothing."""
    try:
        found = json.loads(services.read_file(settings.status_file))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _installed_settings() -> Settings | None:
    try:
        return load(DEFAULT_PATH)
    except InvalidSettings:
        return None


def managed_from(addresses: Iterable[str]) -> list[str]:
    """The addresses that this host is managed from: these, and those that the settings have. So a
    run from elsewhere adds one, and the next run from here changes nothing."""
    found = _installed_settings()
    known = found.controllers if found else ()
    return list(dict.fromkeys((*known, *addresses)))[-_MOST_CONTROLLERS:]


def _rests(settings: Settings | None) -> Rests:
    """What the program writes for itself, and nobody else."""
    if settings is None:
        return Rests()
    return Rests(frozenset(path for path in (settings.state_file, settings.metrics_file) if path))


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
