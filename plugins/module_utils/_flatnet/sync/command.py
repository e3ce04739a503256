# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-sync``: the resident program of a host, and its command line.

    flatnet-sync restore   at boot: the last applied state, from disk alone
    flatnet-sync watch     the service: follows etcd, and repairs what drifts
    flatnet-sync once      compare everything once, and end
    flatnet-sync status    what the service says about itself

Exit status: 0 done, 1 not done (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from ..errors import FlatnetError
from ..etcd.client import EtcdError
from ..etcd.watching import WatchingClient
from ..host.journal import ERROR, WARNING, log, version
from ..host.processes import born
from ..kernel.devices import DeviceKernel
from ..kernel.monitor import Monitor
from ..leases.watched import WatchedRegistry
from . import state
from .agent import Agent
from .restore import restore
from .saving import write_status
from .service import Service, stop_signals
from .settings import DEFAULT_PATH, Settings, load
from .status import table
from .timers import take_longer

VERSION = version()


def watch(settings: Settings, agent: Agent, registry: WatchedRegistry) -> None:
    """The service."""
    _remember(settings, agent)
    Service(settings, agent, registry, Monitor(), stop_signals()).run()


def once(settings: Settings, agent: Agent, registry: WatchedRegistry) -> None:
    """One listing and one comparison."""
    _remember(settings, agent)
    registry.while_waiting(lambda: take_longer(settings.etcd.timeout))
    try:
        agent.take_listing(registry.find())
        agent.keep_alive()
        agent.save()
    except FlatnetError as error:
        agent.status.failed("etcd" if isinstance(error, EtcdError) else "network", str(error))
        raise
    finally:
        write_status(settings, agent.status)


def _remember(settings: Settings, agent: Agent) -> None:
    """Have the state on disk at hand, if there is one that can be used."""
    try:
        known = state.load(settings.state_file)
        if known:
            agent.remember(known)
    except FlatnetError as error:
        log(WARNING, str(error))


def show_status(settings: Settings, as_json: bool) -> None:
    try:
        with open(settings.status_file, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise FlatnetError(
            "there is no status to show (%s); is the service running?" % error
        ) from None
    try:
        pid = found.get("pid") or 0
        found["running"] = born(pid) is not None and born(pid) == found.get("born")
        text = json.dumps(found, indent=2) + "\n" if as_json else table(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FlatnetError(
            "the status %s is not one of this version; the service writes it anew when it starts"
            % settings.status_file
        ) from None
    sys.stdout.write(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="flatnet-sync", description="Keeps this host in the overlay."
    )
    parser.add_argument("--settings", default=DEFAULT_PATH, help="default: %(default)s")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("restore", help="bring back the last applied state, without etcd")
    commands.add_parser("watch", help="follow etcd until stopped")
    commands.add_parser("once", help="compare everything once")
    shown = commands.add_parser("status", help="what the service says about itself")
    shown.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(arguments)
    try:
        settings = load(given.settings)
        if given.command == "status":
            show_status(settings, given.json)
            return 0
        etcd = settings.etcd
        with (
            DeviceKernel() as kernel,
            WatchingClient(
                etcd.endpoints,
                ca_file=etcd.ca_file,
                cert_file=etcd.cert_file,
                key_file=etcd.key_file,
                username=etcd.username,
                password=etcd.password,
                timeout=etcd.timeout,
            ) as client,
        ):
            registry = WatchedRegistry(client, etcd.prefix)
            agent = Agent(settings, kernel, registry, log)
            agent.status.born = born(os.getpid())
            if given.command == "restore":
                restore(settings, agent)
            else:
                (watch if given.command == "watch" else once)(settings, agent, registry)
    except FlatnetError as error:
        log(ERROR, str(error))
        return 1
    except OSError as error:
        # Something is wrong with the host: its disk is full, it has no more descriptors.
        log(ERROR, "%s: %s" % (error.filename or "this host", error.strerror or error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
