# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-relay`` on a host: its user, its device, and what installation.py sees to.

The device is made before the program starts, belongs to the program's user, and outlives it, with
its route. So the program needs no rights, and a restart costs no more than the packets of a moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import InvalidInput
from ..host import files, users
from ..host.lock import locked
from ..host.processes import born
from ..kernel.entries import Link, Route
from ..kernel.kernel import Kernel
from ..kernel.links import plan_link, remove_link
from ..kernel.plan import Changes, adoptable_routes, diff, plan
from ..overlay.backends.udp import relay_table
from ..overlay.devices import Device
from ..relay.config import (
    CONTROL_PATH,
    SETTINGS_PATH,
    InvalidRelayConfig,
    RelaySettings,
    RelayTable,
    load_settings,
    parse_table,
)
from ..relay.control import RelayUnavailable, ask
from . import installation, package, services
from .installation import File, Rests, Step
from .services import Service

UNIT = "flatnet-relay.service"
# One that was killed is back before a stream minds.
_PAUSE = 0.2
# As FileDescriptorStoreMax in the unit: one for each worker, and some that are about to go.
_SOCKETS = 32


class Wanted(NamedTuple):
    """``unit`` is the text of systemd's unit, on a host that has it. ``table`` None: somebody else
    sees to it. ``restart``: whether or not anything has changed."""

    settings: RelaySettings
    device: Device
    python: str
    unit: str
    table: RelayTable | None
    restart: bool


class RelayPlan(installation.Plan):
    """What is missing of a relay, or is left of one."""

    program = "relay"
    patience = 10.0
    units = (UNIT,)
    starting = (UNIT,)
    _kernel: Kernel

    def devices(self) -> Changes:
        """What to change about devices and routes, as of now."""
        raise NotImplementedError

    def _converge(self) -> None:
        """The settings first: flatnet-sync goes by them."""
        with locked():
            self.settle()
            self._kernel.converge(self.devices, check_mode=False)

    def settle(self) -> None:
        """Write or remove the settings."""
        raise NotImplementedError

    def outcome(self) -> dict[str, Any]:
        """What there is to say of it once it is carried out."""
        return {}


class Present(RelayPlan):
    """What is missing so that the relay runs as wanted."""

    def __init__(self, prefix: str, wanted: Wanted, kernel: Kernel) -> None:
        self._wanted, self._kernel = wanted, kernel
        self.speaker = UNIT if services.has_systemd() else package.COMMANDS[self.program]
        settings = wanted.settings
        before = installed()
        rests = _rests(before).and_of(installation.rests(self.program)).without(_rests(settings))
        self._former = sorted(rests.devices)
        self._users = _ours(rests.users)
        changes = kernel.converge(self.devices, check_mode=True)
        first = _kernel_steps(changes)
        if users.find(settings.user) is None:
            first.insert(0, Step("user " + settings.user, "absent\n", "present\n"))
        table = _table_file(wanted)
        renewed = services.read_file(table.path) != table.content
        late = None if renewed or before != settings else _late(settings, table)
        self._tell = renewed or late is not None
        if late:
            first.append(Step("relay", late.before + "\n", late.after + "\n"))
        super().__init__(
            prefix,
            wanted.python,
            [File(SETTINGS_PATH, settings.to_json()), table],
            obsolete=rests,
            first=first + _user_steps(self._users),
            # The relay has queues of the device that was.
            restart=wanted.restart
            or any(_replaces(each.before, each.after) for each in changes)
            or (late is not None and late.restarts),
        )

    def services(self) -> list[Service]:
        if self.systemd:
            if not self._wanted.unit:
                raise InvalidInput(
                    "unit: systemd runs this host, so the text of %s is needed" % UNIT
                )
            return [Service(UNIT, self._wanted.unit, True, True)]
        text = services.definition([self.command, "run"], pause=_PAUSE, sockets=_SOCKETS)
        return [Service(package.COMMANDS[self.program], text, True, True)]

    def shown(self, file: File, before: str) -> tuple[str, str]:
        if file.path != self._wanted.settings.table_file:
            return super().shown(file, before)
        return _table_lines(before), _table_lines(file.content)

    def devices(self) -> Changes:
        kernel, device = self._kernel, self._wanted.device
        name = device.link.name
        routes = kernel.routes(None)
        wanted = Route(self._wanted.settings.network, name)
        changes = plan_link(
            device.link,
            kernel.link(name),
            device.addresses,
            kernel.entries_on(name, routes),
            device.exclusive,
        ).changes
        own = adoptable_routes(
            [wanted],
            [route for route in routes if route.table == wanted.table],
            lambda route: route.dev in (name, *self._former),
        )
        changes += plan([wanted], own)
        for former in self._former:
            link = kernel.link(former)
            if link and link.kind == device.link.kind:
                held = [each for each in kernel.entries_on(former, routes) if each not in own]
                changes += remove_link(link.kind, link, held).changes
        return changes

    def prepare(self) -> None:
        settings = self._wanted.settings
        user = users.make(settings.user)
        if settings.metrics_file:
            folder = os.path.dirname(settings.metrics_file)
            files.make_folder(folder, user.pw_uid, user.pw_gid)
            _check_writable(folder, settings.user)
        self._converge()

    def settle(self) -> None:
        text = self._wanted.settings.to_json()
        files.replace_if_changed(SETTINGS_PATH, text.encode(), 0o644)

    def finish(self) -> None:
        for user in self._users:
            users.remove(user)

    def outcome(self) -> dict[str, Any]:
        return {"relay": status(self._wanted.settings)}

    def wait(self, begin: int) -> None:
        if self._tell and not self.restarts:
            relay_table.tell(self._wanted.settings.control)
        super().wait(begin)

    def silence(self, begin: int) -> str:
        return self._ask(begin)[0]

    def _ask(self, begin: int) -> tuple[str, dict[str, Any]]:
        try:
            found = status(self._wanted.settings)
        except RelayUnavailable as error:
            return str(error), {}
        pid = found["pid"]
        if (born(pid) or 0) < begin or not self._manager.runs(self.speaker, pid):
            return "it is the one of before that answers", found
        return "", found

    def problem(self, begin: int) -> str:
        silence, found = self._ask(begin)
        if silence:
            return silence
        if found["table_error"]:
            return str(found["table_error"]) if self._wanted.table is not None else ""
        settings = self._wanted.settings
        late = relay_table.behind(found, relay_table.read(settings.table_file), settings)
        return "it uses %s" % late.before if late else ""


class Absent(RelayPlan):
    """What there is to remove. A run that was cut short may have left no settings to tell of it, so
    ``device``, ``user`` and ``table_file`` are looked at as well."""

    def __init__(
        self, prefix: str, device: str, user: str, table_file: str, kernel: Kernel
    ) -> None:
        self._kernel = kernel
        before = installed()
        named = Rests(frozenset({table_file}), frozenset({user}), frozenset({device}))
        rests = _rests(before).and_of(installation.rests(self.program)).and_of(named)
        self._names = sorted(rests.devices)
        self._users = _ours(rests.users)
        self._control = before.control if before else CONTROL_PATH
        changes = kernel.converge(self.devices, check_mode=True)
        super().__init__(
            prefix,
            None,
            [File(SETTINGS_PATH, "")],
            obsolete=rests,
            traces=[self._control],
            first=_kernel_steps(changes) + _user_steps(self._users),
        )

    def services(self) -> list[Service]:
        return []

    def devices(self) -> Changes:
        changes: Changes = ()
        for name in self._names:
            link = self._kernel.link(name)
            changes += remove_link("tun", link, self._kernel.entries_on(name)).changes
        return changes

    def settle(self) -> None:
        files.remove(SETTINGS_PATH)

    def dismantle(self) -> None:
        self._converge()
        for user in self._users:
            users.remove(user)

    def finish(self) -> None:
        folder = os.path.dirname(self._control)
        if os.path.basename(folder) == package.COMMANDS[self.program]:
            shutil.rmtree(folder, ignore_errors=True)


def installed() -> RelaySettings | None:
    """The settings that are there; None if there are none that can be read."""
    try:
        return load_settings()
    except InvalidRelayConfig:
        return None


def status(settings: RelaySettings) -> dict[str, Any]:
    """What the relay says about itself, without peers; raises RelayUnavailable."""
    return ask(settings.control, "summary")


def _late(settings: RelaySettings, table: File) -> relay_table.RelayUse | None:
    """What a relay that runs uses that is not what its files say: nobody told it, or it did not
    hear. One that gives no answer is not known to."""
    try:
        found: RelayTable | None = parse_table(table.content)
    except InvalidRelayConfig:
        found = None
    try:
        return relay_table.late(settings.control, found, settings)
    except RelayUnavailable:
        return None


def _ours(names: Iterable[str]) -> list[str]:
    return sorted(filter(users.is_ours, names))


def _user_steps(names: list[str]) -> list[Step]:
    return [Step("user " + name, "present\n", "absent\n") for name in names]


def _kernel_steps(changes: Changes) -> list[Step]:
    shown = diff(changes)
    return [Step("kernel", shown["before"], shown["after"])] if changes else []


def _replaces(before: object, after: object) -> bool:
    """Whether a device is made, or made anew."""
    return before is None and isinstance(after, Link)


def _rests(settings: RelaySettings | None) -> Rests:
    """What is the relay's own besides its settings."""
    if settings is None:
        return Rests()
    return Rests(
        frozenset(path for path in (settings.table_file, settings.metrics_file) if path),
        frozenset({settings.user}),
        frozenset({settings.device}),
    )


def _table_file(wanted: Wanted) -> File:
    """With the table as given; or as it is, else an empty one to start with. One that is somebody
    else's and damaged is left to them: a relay that runs goes on with the one before."""
    path = wanted.settings.table_file
    if wanted.table is not None:
        return File(path, wanted.table.to_json(), restarts=False)
    return File(path, services.read_file(path) or RelayTable().to_json(), restarts=False)


def _table_lines(text: str) -> str:
    """A table as a person reads it."""
    try:
        found = parse_table(text)
    except InvalidRelayConfig:
        return text
    lines = ["relay %s to %s, vector %d\n" % peer for peer in sorted(found.peers)]
    return "".join(lines) or "no peers\n"


def _check_writable(folder: str, user: str) -> None:
    test = shutil.which("test") or "/usr/bin/test"
    with contextlib.suppress(OSError):
        if subprocess.run([test, "-w", folder], user=user, extra_groups=(), check=False).returncode:
            raise InvalidInput(
                "metrics_file: user %s may not write in %s; let it, or choose another folder"
                % (user, folder)
            )
