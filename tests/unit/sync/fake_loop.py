# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service whose time and events are a script: see fakes.py."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import (
    service,
    timers,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.service import Service

from tests.unit.sync.fake_etcd import WATCH
from tests.unit.sync.fakes import World

STOP, MONITOR = 1, 2  # what a loop polls, with WATCH

# What happens to a service: a generator that yields None to let it run until it waits for
# something, or seconds, to let it run for so long.
Script = Generator["float | None", None, None]


class FakeMonitor:
    """Says that the kernel has told of a change that is not ours."""

    def __init__(self) -> None:
        self.pending = False
        self.asked: list[tuple[frozenset[str], str]] = []

    def fileno(self) -> int:
        return MONITOR

    def suspicious(self, _desired: object, ours: frozenset[str], underlay: str) -> bool:
        self.asked.append((ours, underlay))
        self.pending = False
        return True


class Loop:
    """A service that runs through a script. No real time passes: whenever it waits, the clock goes
    on, or the script does."""

    def __init__(self, host: World) -> None:
        self.host = host
        self.monitor = FakeMonitor()
        self.notified: list[str] = []
        self.stopping = False
        self._wake_at = 0.0
        self._script: Script = (each for each in ())

    def run(self, script: Script) -> None:
        """To the end of the script, where the service is stopped."""
        self._script = script
        host = self.host
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service, "select", _Select(self))
            for module in (service, timers):
                patch.setattr(module, "notify", self.notified.append)
            patch.setattr(service, "log", lambda _level, text: host.log.append(text))
            made = Service(host.settings, host.agent, host.registry, self.monitor, STOP)
            made.run()

    def poll(self, numbers: Iterable[int], milliseconds: float) -> list[tuple[int, int]]:
        """As select.poll's."""
        until = self.host.clock.now + milliseconds / 1000
        while True:
            ready = [number for number in numbers if self._is_ready(number)]
            if ready:
                return [(number, 1) for number in ready]
            if self._wake_at > until:
                self.host.clock.now = until
                return []
            self.host.clock.now = max(self.host.clock.now, self._wake_at)
            try:
                pause = next(self._script)
            except StopIteration:
                self.stopping = True
                continue
            self._wake_at = self.host.clock.now + (pause or 0.0)
            if pause is None and not any(map(self._is_ready, numbers)):
                # The script waits for what the service does next by itself.
                self.host.clock.now = until
                return []

    def _is_ready(self, number: int) -> bool:
        if number == WATCH:
            return self.host.etcd.watches[-1].readable
        return self.monitor.pending if number == MONITOR else self.stopping


class _Select:
    """Stands in for the module ``select``."""

    POLLIN = 1

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def poll(self) -> _Poll:
        return _Poll(self._loop)


class _Poll:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._numbers: list[int] = []

    def register(self, number: int, _what: int) -> None:
        self._numbers.append(number)

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        return self._loop.poll(self._numbers, milliseconds)
