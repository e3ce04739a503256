# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-relay`` on a host: what is special to it. installation.py installs and removes it.

The relay runs as a user without rights, and needs a TUN device with a route. This file makes both
before the relay starts. The device belongs to that user, and stays when the relay ends. So the
relay needs no rights, and a restart loses only the packets of a moment.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, NamedTuple

from ..backends.udp import relay_table
from ..errors import FlatnetError, InvalidInput
from ..kernel.entries import Device, Link, Route
from ..kernel.kernel import Kernel
from ..kernel.links import plan_link, remove_link
from ..kernel.plan import Changes, adoptable_routes, plan
from ..kernel.plan import diff as kernel_diff
from ..relay.config import (
    CONTROL_PATH,
    SETTINGS_PATH,
    InvalidRelayConfig,
    RelaySettings,
    RelayTable,
    parse_settings,
    parse_table,
)
from ..relay.control import RelayUnavailable, ask
from . import package, services
from .installation import Program
from .plan import Belongings, Desired, File, Service, Step, presence
from .target import Target

UNIT = "flatnet-relay.service"
# Seconds until a relay that was killed is started again: before a TCP stream suffers.
_PAUSE = 0.2
# As FileDescriptorStoreMax in the unit: one for each worker, and some that are about to go.
_SOCKETS = 32
# How often the table is made again because others have written it meanwhile.
_TRIES = 5


def _payload() -> None:
    """Never called. Ansible finds this import, and so sends the program with the module."""
    from ..relay import command  # noqa: F401, PLC0415


class Request(NamedTuple):
    """What the task asks for.

    ``unit`` is the text of systemd's unit, for a host that has systemd. ``table`` makes the relay's
    table from the one that is there; it is None if somebody else keeps the table. ``restart``: even
    if nothing has changed.
    """

    settings: RelaySettings
    device: Device
    unit: str
    table: Callable[[RelayTable | None], RelayTable] | None
    restart: bool


# Asks a relay at a socket: ``control.ask``.
Ask = Callable[[str, str], dict[str, Any]]


class _Relay(Program):
    name = "relay"
    units = (UNIT,)
    starting = (UNIT,)
    patience = 10.0

    def __init__(self, target: Target, kernel: Kernel) -> None:
        super().__init__(target)
        self._kernel = kernel
        self._leftovers = Belongings()

    def _installed(self) -> RelaySettings | None:
        """The settings that are installed; None if there are none that can be read."""
        try:
            return parse_settings(self.target.text(SETTINGS_PATH))
        except (OSError, InvalidRelayConfig):
            return None

    def _kernel_changes(self) -> Changes:
        """What to change about devices and routes, as they are now."""
        raise NotImplementedError

    def _kernel_steps(self, changes: Changes) -> list[Step]:
        shown = kernel_diff(changes)
        return [Step("kernel", shown["before"], shown["after"])] if changes else []

    def _own_users(self) -> list[str]:
        """Of the users that are left over, those that we have made: only these are removed."""
        return sorted(filter(self.target.has_own_user, self._leftovers.users))

    def _user_steps(self) -> list[Step]:
        return [presence("user " + name, True, False) for name in self._own_users()]

    def _remove_users(self) -> None:
        for user in self._own_users():
            self.target.remove_user(user)


class Present(_Relay):
    """The relay is installed and runs."""

    speaker = UNIT

    def __init__(
        self, target: Target, request: Request, kernel: Kernel, ask_relay: Ask = ask
    ) -> None:
        super().__init__(target, kernel)
        self._ask_relay = ask_relay
        self._request = request
        self._settings = request.settings
        self._informs = False
        # What the table's file says, and the table that was made from it.
        self._seen, self._table = "", RelayTable()
        if not target.systemd:
            self.speaker = self.command_name

    def desired(self, unfinished: Belongings) -> Desired:
        settings, before = self._settings, self._installed()
        own = _own(settings)
        self._leftovers = (_own(before) | unfinished) - own
        changes = self._kernel.converge(self._kernel_changes, check_mode=True)
        self._make_table()
        table = self._table_file(self._seen)
        rewritten = self.target.text(table.path) != table.content
        outdated = None if rewritten or before != settings else self._outdated(table)
        self._informs = rewritten or outdated is not None
        steps = self._kernel_steps(changes)
        if not self.target.has_user(settings.user):
            steps.insert(0, presence("user " + settings.user, False, True))
        if outdated:
            steps.append(Step("relay", outdated.before + "\n", outdated.after + "\n"))
        return Desired(
            files=(File(SETTINGS_PATH, settings.to_json(), shared=True), table),
            services=(self._service(),),
            own=own,
            leftovers=self._leftovers,
            steps=(*steps, *self._user_steps()),
            restart=self._request.restart
            # A relay that runs has the queues of the device that was there before.
            or any(each.before is None and isinstance(each.after, Link) for each in changes)
            or (outdated is not None and outdated.restarts),
        )

    def _service(self) -> Service:
        if self.target.systemd:
            if not self._request.unit:
                raise InvalidInput(
                    "unit: systemd runs this host, so the text of %s is needed" % UNIT
                )
            return Service(UNIT, self._request.unit, True, True)
        command = [self.target.command, "run"]
        text = services.definition(command, pause=_PAUSE, sockets=_SOCKETS)
        return Service(self.command_name, text, True, True)

    def _make_table(self) -> None:
        """Make the table from the one that is there. This may ask etcd, so nobody holds the lock
        meanwhile."""
        self._seen = self.target.text(self._settings.table_file)
        if self._request.table:
            self._table = self._request.table(_parse_table(self._seen))

    def _table_file(self, found: str) -> File:
        """The table's file, which says ``found`` now. If somebody else keeps the table, it stays as
        it is, even if it is broken: a relay that runs goes on with the table that it has read
        before. Where there is none, an empty one is made."""
        text = self._table.to_json() if self._request.table or not found else found
        path = self._settings.table_file
        return File(path, text, restarts=False, show=_show_table, shared=True)

    def _write_table(self) -> bool:
        """Write the table, with the lock held; False if others have written it since it was made
        from what they wrote before."""
        found = self.target.text(self._settings.table_file)
        if self._request.table and found != self._seen:
            return False
        file = self._table_file(found)
        if not self.target.file(file.path).fits(file):
            self.target.write(file)
        return True

    def _outdated(self, table: File) -> relay_table.RelayUse | None:
        """What a relay that runs uses instead of what its files say: nobody told it, or it did not
        hear. None if it uses what they say, or does not answer."""
        found = _parse_table(table.content)
        try:
            return relay_table.behind(self._summary(), found, self._settings)
        except RelayUnavailable:
            return None

    def _kernel_changes(self) -> Changes:
        kernel, device = self._kernel, self._request.device
        former = sorted(self._leftovers.devices)
        name = device.link.name
        routes = kernel.routes(None)
        wanted = Route(self._settings.network, name)
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
            lambda route: route.dev in (name, *former),
        )
        changes += plan([wanted], own)
        for each in former:
            link = kernel.link(each)
            if link and link.kind == device.link.kind:
                held = [entry for entry in kernel.entries_on(each, routes) if entry not in own]
                changes += remove_link(link.kind, link, held).changes
        return changes

    def prepare(self) -> None:
        settings = self._settings
        self.target.make_user(settings.user)
        if settings.metrics_file:
            self.target.make_folder_of(os.path.dirname(settings.metrics_file), settings.user)
        with self.target.locked():
            # The settings first: flatnet-sync goes by them.
            file = File(SETTINGS_PATH, settings.to_json())
            if not self.target.file(file.path).fits(file):
                self.target.write(file)
            self._kernel.converge(self._kernel_changes, check_mode=False)
            written = self._write_table()
        for dummy in range(_TRIES):
            if written:
                return
            self._informs = True
            self._make_table()
            with self.target.locked():
                written = self._write_table()
        if not written:
            raise FlatnetError(
                "another program writes the relay's table %s again and again; end it, or run this "
                "again" % settings.table_file
            )

    def inform(self, restarted: bool) -> None:
        if self._informs and not restarted:
            # If it does not hear, ``problem`` says so.
            with contextlib.suppress(RelayUnavailable):
                self._ask_relay(self._settings.control, "reload")

    def silence(self, begin: int) -> str:
        return self._ask(begin)[0]

    def problem(self, begin: int) -> str:
        silence, found = self._ask(begin)
        if silence:
            return silence
        if found["table_error"]:
            # A broken table that somebody else keeps is theirs to mend.
            return str(found["table_error"]) if self._request.table is not None else ""
        table = _parse_table(self.target.text(self._settings.table_file))
        outdated = relay_table.behind(found, table, self._settings)
        return "it still uses %s" % outdated.before if outdated else ""

    def _ask(self, begin: int) -> tuple[str, dict[str, Any]]:
        """Why the relay is not known to run, or what it says about itself."""
        try:
            found = self._summary()
        except RelayUnavailable as error:
            return str(error), {}
        pid = found["pid"]
        started_since = (self.target.born(pid) or 0) >= begin
        if not started_since or not self.target.manager.runs(self.speaker, pid):
            return "the previous relay process still answers", found
        return "", found

    def finish(self) -> None:
        self._remove_users()

    def outcome(self) -> dict[str, Any]:
        return {"relay": self._summary()}

    def _summary(self) -> dict[str, Any]:
        """What the relay says about itself, without peers; raises RelayUnavailable."""
        return self._ask_relay(self._settings.control, "summary")


class Absent(_Relay):
    """The relay is removed.

    What to remove is in its settings. A run that was cut short may have left none, so ``named``,
    what the task names, is removed as well.
    """

    removed = True

    def __init__(self, target: Target, named: Belongings, kernel: Kernel) -> None:
        super().__init__(target, kernel)
        self._named = named
        self._control = CONTROL_PATH

    def desired(self, unfinished: Belongings) -> Desired:
        before = self._installed()
        self._leftovers = _own(before) | unfinished | self._named
        if before:
            self._control = before.control
        changes = self._kernel.converge(self._kernel_changes, check_mode=True)
        return Desired(
            files=(File(SETTINGS_PATH, ""),),
            leftovers=self._leftovers,
            traces=(self._control,),
            steps=(*self._kernel_steps(changes), *self._user_steps()),
        )

    def _kernel_changes(self) -> Changes:
        changes: Changes = ()
        for name in sorted(self._leftovers.devices):
            link = self._kernel.link(name)
            changes += remove_link("tun", link, self._kernel.entries_on(name)).changes
        return changes

    def dismantle(self) -> None:
        with self.target.locked():
            # The settings first: flatnet-sync goes by them.
            self.target.remove(SETTINGS_PATH)
            self._kernel.converge(self._kernel_changes, check_mode=False)
        self._remove_users()

    def finish(self) -> None:
        folder = os.path.dirname(self._control)
        if os.path.basename(folder) == package.COMMANDS[self.name]:
            self.target.remove_folder(folder)


def _own(settings: RelaySettings | None) -> Belongings:
    """What is the relay's own besides its settings."""
    if settings is None:
        return Belongings()
    return Belongings(
        frozenset(path for path in (settings.table_file, settings.metrics_file) if path),
        frozenset({settings.user}),
        frozenset({settings.device}),
    )


def _parse_table(text: str) -> RelayTable | None:
    """The table; None if there is none, or none that can be read."""
    try:
        return parse_table(text)
    except InvalidRelayConfig:
        return None


def _show_table(before: str, after: str) -> tuple[str, str]:
    return _table_lines(before), _table_lines(after)


def _table_lines(text: str) -> str:
    """A table as a person reads it."""
    found = _parse_table(text)
    if found is None:
        return text
    lines = ["relay %s to %s, vector %d\n" % peer for peer in sorted(found.peers)]
    return "".join(lines) or "no peers\n"
