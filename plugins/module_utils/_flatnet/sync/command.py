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
import contextlib
import itertools
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..errors import FlatnetError
from ..etcd.client import EtcdClient, EtcdCompacted, EtcdError, EtcdNoQuorum, Watch, WatchResponse
from ..host import files
from ..host.journal import ERROR, INFO, NOTICE, WARNING, log, notify, version
from ..host.processes import born
from ..kernel.kernel import Kernel
from ..kernel.monitor import Monitor
from ..leases.registry import Registry
from . import state
from .agent import Agent, PlaceChanged, jitter
from .settings import DEFAULT_PATH, Settings, load
from .status import metrics, table
from .vigil import Vigil, WatchBehind, WatchSilent

VERSION = version()
# Seconds. What follows a change on disk is written when nothing has changed for the first, and in a
# storm of changes, which it would hold up, every so often.
_SAVE_DELAY, _LONGEST_SAVE_DELAY = 1.0, 5.0
# The kernel's notifications of one cause come together; look once.
_SETTLE = 0.02
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 10.0
_UNDERLAY_PAUSE = 0.1
_BURST = 1000  # responses of a watch that are taken in at once
# To systemd, which waits for the program to be ready: wait so many seconds more.
_LONGER = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=%d000000"
_RELIST_CHECKS = 10  # so many slow checks to a listing that nothing asked for


class Stop(Exception):
    """A signal asks the program to end."""


class Service:
    """The loop around an Agent: etcd's watch, the kernel's monitor, signals and timers."""

    def __init__(self, settings: Settings, agent: Agent, registry: Registry) -> None:
        self._settings = settings
        self._agent = agent
        self._registry = registry
        self._monitor = Monitor()
        agent.status.pid = os.getpid()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._checks = 0
        self._announced = False
        self._vigil = Vigil()
        self._retry = _FIRST_RETRY
        self._save_at: float | None = None
        self._unsaved_since: float | None = None
        self._look_at: float | None = None
        now = time.monotonic()
        self._check_at = now + jitter(settings.check_interval)
        self._renew_at = now + jitter(settings.ttl / 3) if settings.ttl else None
        watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        self._watchdog = watchdog / 3 or None
        registry.while_waiting(self._waiting)
        self._alive_at = now if watchdog else None

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_ignored: os.write(self._woken, b"."))
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        with contextlib.suppress(Stop):
            while True:
                try:
                    self._agent.take_listing(self._registry.find())
                    for kind in ("etcd", "network", "location"):
                        self._agent.status.healed(kind)
                    self._touched()
                    if self._settings.ttl:
                        # How much is left of it after we were away, nobody knows.
                        self._renew_at = time.monotonic()
                    self._follow()
                except FlatnetError as error:
                    kind = "etcd" if isinstance(error, EtcdError) else "network"
                    self._agent.failed(kind, str(error))
                    self._recall()
                    self._announce("\nSTATUS=%s" % error)
                self._pause()
        notify("STOPPING=1")
        self._agent.status.connected(None)
        self._agent.status.pid = None
        self._write()

    def _waiting(self) -> None:
        """etcd is about to be asked, for as long as its timeout at most: that is not hanging."""
        notify("WATCHDOG=1" if self._announced else _LONGER % (self._settings.etcd.timeout + 30))
        if self._alive_at is not None:
            self._alive_at = time.monotonic() + (self._watchdog or 0)

    def _follow(self) -> None:
        """Serve one watch after the other, until a new listing is needed."""
        endpoint = ""
        cluster: int | None = None
        status = self._agent.status
        try:
            while True:
                with self._registry.watch(self._agent.revision) as watch:
                    endpoint = watch.endpoint
                    cluster = watch.cluster if cluster is None else cluster
                    if watch.revision < self._agent.revision or watch.cluster != cluster:
                        # Another history, or a member that lags behind.
                        self._registry.avoid(endpoint)
                        return
                    self._vigil.begin(watch, self._registry.pulse(endpoint))
                    status.connected(endpoint)
                    self._announce()
                    try:
                        self._serve(watch, None)
                        return
                    except WatchBehind as error:
                        log(INFO, "%s; going on at another member" % error)
                        self._registry.avoid(endpoint)
                    except (WatchSilent, EtcdNoQuorum) as error:
                        # Which all hosts see at once: if all of them listed, it would last.
                        self._agent.failed("etcd", str(error))
                        self._registry.avoid(endpoint)
                self._vigil.end()
                if not self._pause():
                    return
        except EtcdCompacted:
            pass  # listing is faster
        except EtcdError:
            self._registry.avoid(endpoint)
            raise
        finally:
            self._vigil.end()

    def _pause(self) -> bool:
        """Go on without a watch for a while, each time longer; False if a new listing is needed."""
        self._agent.status.connected(None)
        self._touched()
        wait, self._retry = self._retry, min(self._retry * 2, _LONGEST_RETRY)
        return self._serve(None, time.monotonic() + random.uniform(0, wait))

    def _watched(self, watch: Watch) -> bool:
        """Take in what the watch has, and look whether it still tells all; False if a new listing
        is needed."""
        responses = list(itertools.islice(_ready(watch), _BURST))
        if responses:
            if not self._agent.take_events(responses):
                return False
            self._touched()
        answered = self._vigil.answered
        self._vigil.look(self._agent.revision)
        if self._vigil.confirmed:
            self._retry = _FIRST_RETRY
            self._agent.status.healed("etcd")
        if self._vigil.answered != answered:
            self._agent.status.connected(watch.endpoint if self._vigil.answered else None)
            self._touched()
        return True

    def _recall(self) -> None:
        """Without a listing, repair what drifted, and what will, from the last applied state."""
        try:
            recalled = self._agent.recall()
        except FlatnetError as error:
            self._agent.failed("location", str(error))
        else:
            self._agent.status.healed("location")
            if recalled:
                self._check("drift")

    def _announce(self, more: str = "") -> None:
        """Tell that the host is as right as it can be now; the first time with a status to read."""
        if self._announced:
            self._touched()
        else:
            self._write()
            self._announced = True
        notify("READY=1" + more)

    def _serve(self, watch: Watch | None, until: float | None) -> bool:
        """Handle what comes, until ``until``, or until a new listing is needed: then False."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._monitor.fileno(), select.POLLIN)
        if watch:
            poll.register(watch.fileno(), select.POLLIN)
        while True:
            if watch and not self._watched(watch):
                return False
            now = time.monotonic()
            if until is not None and now >= until:
                return True
            if self._look_at is not None and now >= self._look_at:
                self._look_at = None
                if not self._check("drift"):
                    return False
            if not self._timers(now):
                return False
            times = [until, self._look_at, self._check_at, self._renew_at, self._save_at]
            times += [self._alive_at, self._vigil.due if watch else None]
            first = (
                now if watch and watch.ready else min(each for each in times if each is not None)
            )
            with _polled(poll, self._vigil.fileno() if watch else None):
                ready = {number for number, _event in poll.poll(max(first - now, 0) * 1000 + 1)}
            if self._wake in ready:
                raise Stop
            if self._monitor.fileno() in ready and self._suspicious() and self._look_at is None:
                self._look_at = time.monotonic() + _SETTLE

    def _suspicious(self) -> bool:
        ours, underlay = self._agent.watched
        return self._monitor.suspicious(self._agent.desired, ours, underlay)

    def _timers(self, now: float) -> bool:
        """Do what is due; False if a new listing is needed."""
        if self._alive_at is not None and now >= self._alive_at:
            notify("WATCHDOG=1")
            self._alive_at = now + (self._watchdog or 0)
        if self._save_at is not None and now >= self._save_at:
            self._write()
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = now + jitter(self._settings.ttl / 3)
            try:
                if not self._agent.keep_alive():
                    return False
            except EtcdError as error:
                self._agent.failed("renewal", str(error))
            else:
                self._agent.status.healed("renewal")
            self._touched()
        if now >= self._check_at:
            self._check_at = now + jitter(self._settings.check_interval)
            self._checks += 1
            if not self._check("drift"):
                return False
            return self._checks % _RELIST_CHECKS != 0
        return True

    def _check(self, why: str) -> bool:
        self._touched()
        try:
            self._agent.check(why)
        except PlaceChanged as error:
            log(WARNING, str(error))
            self._registry.disconnect()
            return False
        except FlatnetError as error:
            self._agent.failed("kernel", str(error))
        return True

    def _touched(self) -> None:
        now = time.monotonic()
        self._unsaved_since = self._unsaved_since or now
        self._save_at = min(now + _SAVE_DELAY, self._unsaved_since + _LONGEST_SAVE_DELAY)

    def _write(self) -> None:
        self._save_at = self._unsaved_since = None
        try:
            self._agent.save()
        except OSError as error:
            self._agent.failed("state", "the state cannot be written: %s" % error)
        else:
            self._agent.status.healed("state")
        write_status(self._settings, self._agent)


@contextlib.contextmanager
def _polled(poll: select.poll, number: int | None) -> Iterator[None]:
    """For one look, a descriptor that may be another one at the next."""
    if number is not None:
        poll.register(number, select.POLLIN)
    yield
    if number is not None:
        poll.unregister(number)


def _ready(watch: Watch) -> Iterator[WatchResponse]:
    """What the watch has by now; a burst is taken in as one."""
    while True:
        response = watch.read(0)
        if response is None:
            return
        yield response


def write_status(settings: Settings, agent: Agent) -> None:
    """For ``status``, and for the metrics collector; a failure is only logged."""
    found = agent.status.to_dict()
    try:
        files.replace(settings.status_file, json.dumps(found).encode(), 0o644)
        if settings.metrics_file:
            files.publish(settings.metrics_file, metrics(found).encode())
    except OSError as error:
        log(ERROR, "the status cannot be written: %s" % error)


def remember(settings: Settings, agent: Agent) -> None:
    """Have the state on disk at hand, if there is one that can be used."""
    try:
        known = state.load(settings.state_file)
        if known:
            agent.remember(known)
    except FlatnetError as error:
        log(WARNING, str(error))


def watch(settings: Settings, agent: Agent, registry: Registry) -> None:
    """The service."""
    remember(settings, agent)
    Service(settings, agent, registry).run()


def once(settings: Settings, agent: Agent, registry: Registry) -> None:
    """One listing and one comparison."""
    remember(settings, agent)
    registry.while_waiting(lambda: notify(_LONGER % (settings.etcd.timeout + 30)))
    try:
        agent.take_listing(registry.find())
        agent.keep_alive()
        agent.save()
    except FlatnetError as error:
        agent.status.failed("etcd" if isinstance(error, EtcdError) else "network", str(error))
        raise
    finally:
        write_status(settings, agent)


def restore(settings: Settings, agent: Agent) -> None:
    """The last applied state, without etcd; refuses if the underlay is not as it was."""
    known = state.load(settings.state_file)
    if known is None:
        log(NOTICE, "nothing to restore: there is no state %s yet" % settings.state_file)
        return
    agent.remember(known)
    recall(agent, known, settings.restore_wait)
    for name, value in settings.sysctls:
        set_sysctl(name, value)
    agent.check("restored")
    agent.write_subnet_env()
    write_status(settings, agent)


def recall(agent: Agent, known: state.State, seconds: float) -> None:
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
                notify(_LONGER % (seconds + 30))
                log(INFO, "waiting for %s on %s: %s" % (known.address, known.interface, error))
                said = True
        time.sleep(_UNDERLAY_PAUSE)


def set_sysctl(name: str, value: str) -> None:
    path = "/proc/sys/" + name.replace(".", "/")
    try:
        with open(path, "r+", encoding="ascii") as file:
            if file.read().strip() != value:
                file.seek(0)
                file.write(value + "\n")
                log(INFO, "set %s to %s" % (name, value))
    except OSError as error:
        raise FlatnetError("sysctl %s cannot be set: %s" % (name, error.strerror)) from None


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
            Kernel() as kernel,
            EtcdClient(
                etcd.endpoints,
                ca_file=etcd.ca_file,
                cert_file=etcd.cert_file,
                key_file=etcd.key_file,
                username=etcd.username,
                password=etcd.password,
                timeout=etcd.timeout,
            ) as client,
        ):
            registry = Registry(client, etcd.prefix)
            agent = Agent(settings, kernel, registry, log)
            agent.status.born = born(os.getpid())
            if given.command == "restore":
                restore(settings, agent)
            else:
                (watch if given.command == "watch" else once)(settings, agent, registry)
    except FlatnetError as error:
        log(ERROR, str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
