# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-sync`` on a host: what is special to it. installation.py installs and removes it.

Its settings have etcd's password, which is never shown. It says in its status file that it runs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidInput
from ..etcd.cluster import CALL
from ..fields import load_object
from ..sync.settings import DEFAULT_PATH, InvalidSettings, Settings, parse, to_json
from . import services
from .installation import NotReady, Program
from .plan import Belongings, Desired, File, Service
from .target import Target

RESTORE, SYNC = "flatnet-restore.service", "flatnet-sync.service"
ONCE, TIMER = "flatnet-sync-once.service", "flatnet-sync.timer"
# The units of systemd that each way of running it needs.
MODES = {"service": (RESTORE, SYNC), "timer": (RESTORE, ONCE, TIMER), "none": (RESTORE,)}

_MOST_CONTROLLERS = 16


def _payload() -> None:
    """Never called. Ansible finds this import, and so sends the program with the module."""
    from ..sync import command  # noqa: F401, PLC0415


class Request(NamedTuple):
    """What the task asks for. ``units`` are the texts of systemd's units by their names, for a host
    that has systemd."""

    settings: Settings
    mode: str
    units: Mapping[str, str]


class _Sync(Program):
    name = "sync"
    units = (RESTORE, SYNC, ONCE, TIMER)
    starting = (SYNC, ONCE)
    once = (ONCE,)


class Present(_Sync):
    """flatnet-sync is installed, and runs in one of its modes."""

    def __init__(self, target: Target, request: Request) -> None:
        super().__init__(target)
        self._settings = request.settings
        self._mode = request.mode
        self._units = request.units
        # It says that it runs after it has listed and watched the leases, or after the first call
        # to etcd that failed.
        self.patience = 2 * CALL * self._settings.etcd.timeout + 15
        if self._mode != "none" and target.systemd:
            self.speaker = SYNC if self._mode == "service" else ONCE
        elif self._mode != "none":
            self.speaker = self.command_name

    def desired(self, unfinished: Belongings) -> Desired:
        settings = File(DEFAULT_PATH, to_json(self._settings), 0o600, show=_show_settings)
        own = _own_files(self._settings)
        return Desired(
            files=(settings,),
            services=tuple(self._with_systemd() if self.target.systemd else self._supervised()),
            own=own,
            leftovers=(_own_files(_installed(self.target)) | unfinished) - own,
        )

    def _with_systemd(self) -> list[Service]:
        names = MODES[self._mode]
        missing = [name for name in names if not self._units.get(name)]
        if missing:
            raise InvalidInput(
                "units: systemd runs this host, so mode %s needs the text of %s"
                % (self._mode, " and ".join(missing))
            )
        return [
            # The timer starts ONCE, and the boot RESTORE: we do not manage whether they run.
            Service(name, self._units[name], name != ONCE, name in (SYNC, TIMER) or None)
            for name in names
        ]

    def _supervised(self) -> list[Service]:
        if self._mode == "none":
            return []
        command = self.target.command
        if self._mode == "service":
            text = services.definition([command, "watch"])
        else:
            text = services.definition([command, "once"], self._settings.check_interval)
        return [Service(self.command_name, text, True, True)]

    def prepare(self) -> None:
        if self._settings.metrics_file:
            self.target.make_folder(os.path.dirname(self._settings.metrics_file))

    def silence(self, begin: int) -> str:
        if not self.speaker:
            return ""
        found = status(self.target, self._settings)
        if (found.get("born") or 0) < begin or "updated_monotonic" not in found:
            return "it has not written its status yet"
        # It writes its status with every comparison. Until then etcd may keep it waiting.
        longest = 3 * self._settings.check_interval + 2 * self.patience + 60
        if not 0 <= time.monotonic() - found["updated_monotonic"] < longest:
            return "it has not written its status for more than %d seconds" % longest
        pid = found["pid"] or 0
        if self._mode == "service" and not (
            self.target.born(pid) is not None
            and self.target.born(pid) == found["born"]
            and self.target.manager.runs(self.speaker, pid)
        ):
            return "its status is of another process than the one that runs"
        return ""

    def complete(self) -> None:
        """With mode ``none`` nothing else writes what a boot restores. So it is run here."""
        if self._mode != "none":
            return
        begin = self.target.ticks()
        command = self.target.command
        output = self.target.run([command, "once"])
        if (status(self.target, self._settings).get("born") or 0) < begin:
            raise NotReady(
                "'%s once' has not written its status; it said: %s" % (command, output.strip())
            )

    def outcome(self) -> dict[str, Any]:
        return {"sync": status(self.target, self._settings)}


class Absent(_Sync):
    """flatnet-sync is removed."""

    removed = True

    def desired(self, unfinished: Belongings) -> Desired:
        return Desired(
            files=(File(DEFAULT_PATH, "", show=_show_settings),),
            leftovers=_own_files(_installed(self.target)) | unfinished,
            traces=(Settings().status_file,),
        )


def status(target: Target, settings: Settings) -> dict[str, Any]:
    """What the program has written about itself; empty if it has not."""
    try:
        found = json.loads(target.text(settings.status_file))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def managed_from(target: Target, addresses: Iterable[str]) -> list[str]:
    """The addresses that this host is managed from: the given ones, and those in the installed
    settings. A run from another controller adds its address, and the next run from here then
    changes nothing."""
    found = _installed(target)
    known = found.controllers if found else ()
    return list(dict.fromkeys((*known, *addresses)))[-_MOST_CONTROLLERS:]


def _installed(target: Target) -> Settings | None:
    """The settings that are installed; None if there are none that can be read."""
    try:
        return parse(load_object(target.text(DEFAULT_PATH), InvalidSettings, DEFAULT_PATH))
    except (OSError, InvalidInput):
        return None


def _own_files(settings: Settings | None) -> Belongings:
    """The files that the program writes, and that nobody else does."""
    if settings is None:
        return Belongings()
    return Belongings(
        frozenset(path for path in (settings.state_file, settings.metrics_file) if path)
    )


# --- settings as they may be shown ----------------------------------------------------------------


def _show_settings(before: str, after: str) -> tuple[str, str]:
    """Both without their passwords, and whether the password changes."""
    same = _password(before) == _password(after)
    return _mask(before, "hidden"), _mask(after, "hidden" if same else "another one")


def _password(text: str) -> str:
    try:
        return str(json.loads(text)["etcd"]["password"])
    except (ValueError, KeyError, TypeError):
        return ""


def _mask(text: str, password: str) -> str:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return "(not JSON)\n"
    if not _password(text):
        return text
    found["etcd"]["password"] = password
    return json.dumps(found, indent=2, sort_keys=True) + "\n"
