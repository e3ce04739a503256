# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident program on a host: its package, its settings, and what keeps it running.

``plan`` observes and tells the steps that are missing; ``Plan.carry_out`` takes them. A run that is
cut short leaves a mark, so that the next one starts the program anew although all files are right.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import package, services, state
from .errors import FlatnetError, InvalidInput
from .services import Change, Service, Supervised, Systemd
from .settings import DEFAULT_PATH, InvalidSettings, Settings, load, to_json

RESTORE, SYNC = "flatnet-restore.service", "flatnet-sync.service"
ONCE, TIMER = "flatnet-sync-once.service", "flatnet-sync.timer"
SUPERVISED = "flatnet-sync"
# With systemd: what each way of running it needs.
MODES = {"service": (RESTORE, SYNC), "timer": (RESTORE, ONCE, TIMER), "none": (RESTORE,)}

_UNITS = (RESTORE, SYNC, ONCE, TIMER)
_MARK = os.path.join(services.RUN, "sync.changing")
_PAUSE = 0.05


class NotReady(FlatnetError):
    """The program was started and does not say that it runs."""


class Wanted(NamedTuple):
    """``units`` are the texts of systemd's units by name, on a host that has it."""

    settings: Settings
    mode: str
    python: str
    units: Mapping[str, str]


class Step(NamedTuple):
    """One difference, as the user sees it."""

    where: str
    before: str
    after: str


class Plan:
    """What is missing; ``steps`` is empty if nothing is."""

    def __init__(self, prefix: str, wanted: Wanted | None) -> None:
        self._prefix = prefix
        self._wanted = wanted
        self.steps: list[Step] = []
        self._manager = _manager(prefix, wanted)
        self._obsolete = sorted(_files(_installed_settings()) - _files(wanted and wanted.settings))
        self._settings_file = to_json(wanted.settings) if wanted else ""
        before = package.observe(prefix)
        self._installs = bool(wanted) and str(before) != package.version()
        self._add(
            "package", "%s\n" % str(before), "%s\n" % (package.version() if wanted else "none")
        )
        launcher = package.launcher(prefix, wanted.python) if wanted else b""
        self._launcher = launcher.decode()
        self._add_file(package.launcher_path(prefix), self._launcher, 0o755)
        self._add_file(DEFAULT_PATH, self._settings_file, 0o600)
        restart = os.path.exists(_MARK) or bool(self.steps)
        for path in self._obsolete:
            if os.path.exists(path):
                self._add(path, "present\n", "absent\n")
        self._changes = self._plan_services(restart)
        self.restarts = any(
            each.restart or (each.after.running and not each.before.running)
            for each in self._changes
        )

    def _add(self, where: str, before: str, after: str) -> None:
        if before != after:
            self.steps.append(Step(where, before, after))

    def _add_file(self, path: str, after: str, mode: int) -> None:
        """A step for a file whose content, permissions or owner differ."""
        before = services.read_file(path)
        if before == after and (not after or _is_private(path, mode)):
            return
        texts = [before, after]
        if path == DEFAULT_PATH:
            same = _password(before) == _password(after)
            texts = [_masked(before, "hidden"), _masked(after, "hidden" if same else "another one")]
        if after:
            texts = [texts[0] + _permissions(path), texts[1] + "mode %04o, root's\n" % mode]
        self._add(path, *texts)

    def _plan_services(self, restart: bool) -> list[Change]:
        wanted = {each.name: each for each in self._services()}
        names = _UNITS if isinstance(self._manager, Systemd) else (SUPERVISED,)
        changes = []
        for now in self._manager.read(names):
            after = wanted.get(now.name, Service(now.name))
            unknown = after.running is None or not (after.definition or now.definition)
            before = now._replace(running=after.running) if unknown else now
            # A timer goes on; what it starts next is the new one.
            again = restart and bool(after.definition) and after.name in (SYNC, ONCE, SUPERVISED)
            if before == after and not again:
                continue
            again = again or (after.name == ONCE and not before.definition)
            changes.append(Change(before, after, again))
            self._add(self._manager.path(after.name), before.definition, after.definition)
            anew = ", started anew" if again and (before.running or after.running is None) else ""
            self._add(after.name, "%s\n" % str(before), "%s%s\n" % (str(after), anew))
        return changes

    def _services(self) -> list[Service]:
        wanted = self._wanted
        if wanted is None:
            return []
        if isinstance(self._manager, Systemd):
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
        program = package.launcher_path(self._prefix)
        if wanted.mode == "service":
            text = services.definition([program, "watch"])
        else:
            text = services.definition([program, "once"], wanted.settings.check_interval)
        return [Service(SUPERVISED, text, True, True)]

    # --- act --------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Take the steps."""
        try:
            if self._wanted:
                self._put(self._wanted)
            else:
                self._remove()
        except OSError as error:
            raise FlatnetError("%s: %s" % (error.filename, error.strerror)) from None

    def _put(self, wanted: Wanted) -> None:
        if self.steps:
            state.replace(_MARK, b"", 0o644)
            if self._installs:
                package.install(self._prefix, wanted.python)
            launcher = package.launcher_path(self._prefix)
            state.replace_if_changed(launcher, self._launcher.encode(), 0o755)
            os.chmod(launcher, 0o755)
            if wanted.settings.metrics_file:
                os.makedirs(os.path.dirname(wanted.settings.metrics_file), exist_ok=True)
            os.makedirs(os.path.dirname(DEFAULT_PATH), mode=0o755, exist_ok=True)
            state.replace(DEFAULT_PATH, self._settings_file.encode(), 0o600)
            begin = time.time()
            self._manager.change(self._changes)
            package.clean(self._prefix)
            for path in self._obsolete:
                _unlink(path)
            if self.restarts:
                self._await(wanted.settings, begin)
        if wanted.mode == "none":
            # Nothing else leaves on disk what is restored at boot.
            services.run([package.launcher_path(self._prefix), "once"])
        _unlink(_MARK)

    def _remove(self) -> None:
        self._manager.change(self._changes)
        for path in (*self._obsolete, DEFAULT_PATH, Settings().status_file, _MARK):
            _unlink(path)
        package.remove(self._prefix)
        for path in (*self._obsolete, DEFAULT_PATH):
            # Only if it is empty.
            if os.path.basename(os.path.dirname(path)) == package.NAME:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(path))

    def _await(self, settings: Settings, begin: float) -> None:
        """Wait until a program that was started since ``begin`` has told how it is doing."""
        etcd = settings.etcd
        seconds = etcd.timeout * (len(etcd.endpoints) + 1) + 15
        until = time.monotonic() + seconds
        while status(settings).get("started", 0.0) < begin:
            if time.monotonic() > until:
                names = [each.after.name for each in self._changes if each.after.definition]
                raise NotReady(
                    "flatnet-sync does not get ready within %d seconds; %s"
                    % (seconds, self._manager.said(names))
                )
            time.sleep(_PAUSE)


def status(settings: Settings) -> dict[str, Any]:
    """What the program says about itself; empty if nothing."""
    try:
        found = json.loads(services.read_file(settings.status_file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _manager(prefix: str, wanted: Wanted | None) -> Systemd | Supervised:
    if services.has_systemd():
        return Systemd()
    program = os.path.join(package.current(prefix), package.NAME, "supervisor.py")
    return Supervised(program, wanted.python if wanted else "")


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


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _is_private(path: str, mode: int) -> bool:
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode) == mode and found.st_uid == os.geteuid()


def _permissions(path: str) -> str:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    owner = "root" if found.st_uid == os.geteuid() else "user %d" % found.st_uid
    return "mode %04o, %s's\n" % (stat.S_IMODE(found.st_mode), owner)


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
