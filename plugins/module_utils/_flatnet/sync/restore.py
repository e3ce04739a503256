# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-sync restore``: at boot, the last applied state, from disk alone."""

from __future__ import annotations

import time

from ..errors import FlatnetError
from ..host.journal import INFO, NOTICE, log
from . import state
from .agent import Agent
from .saving import write_status
from .settings import Settings
from .timers import take_longer

_UNDERLAY_PAUSE = 0.1  # seconds between looks for the underlay's address


def restore(settings: Settings, agent: Agent) -> None:
    """Bring back the state, without etcd; refuses if the underlay is not as it was."""
    known = state.load(settings.state_file)
    if known is None:
        log(NOTICE, "nothing to restore: there is no state %s yet" % settings.state_file)
        return
    agent.remember(known)
    _recall(agent, known, settings.restore_wait)
    for name, value in settings.sysctls:
        _set_sysctl(name, value)
    agent.check("restored")
    agent.write_subnet_env()
    write_status(settings, agent.status)


def _recall(agent: Agent, known: state.State, seconds: float) -> None:
    """Have the agent start from the state; a boot may still be bringing the underlay's address."""
    until = time.monotonic() + seconds
    said = False
    while True:
        try:
            agent.recall()
            return
        except state.DamagedState:
            raise
        except FlatnetError as error:
            if time.monotonic() >= until:
                raise
            if not said:
                take_longer(seconds)
                log(INFO, "waiting for %s on %s: %s" % (known.address, known.interface, error))
                said = True
        time.sleep(_UNDERLAY_PAUSE)


def _set_sysctl(name: str, value: str) -> None:
    path = "/proc/sys/" + name.replace(".", "/")
    try:
        with open(path, "r+", encoding="ascii") as file:
            if file.read().strip() != value:
                file.seek(0)
                file.write(value + "\n")
                log(INFO, "set %s to %s" % (name, value))
    except OSError as error:
        raise FlatnetError("sysctl %s cannot be set: %s" % (name, error.strerror)) from None
