# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service: a loop around an agent, that runs until a signal.

    list everything --> follow a watch --> pause --> list everything --> ...

It stops following when etcd is gone, or when events cannot be followed without a new listing.
While it follows a watch and while it pauses, it also listens to the kernel and to signals, and does
what is due: see ``timers.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import signal
import time
from collections.abc import Iterator

from ..errors import FlatnetError
from ..etcd.client import EtcdCompacted, EtcdError, EtcdNoQuorum, WatchResponse
from ..etcd.watching import Watch
from ..host.journal import INFO, WARNING, log, notify
from ..kernel.monitor import Monitor
from ..leases.watched import WatchedRegistry
from .agent import Agent, UnderlayChanged
from .saving import write_status
from .settings import Settings
from .timers import SignOfLife, Writing, jitter, take_longer
from .watch_check import WatchBehind, WatchCheck, WatchSilent

# The kernel's notifications of one cause come together; look once. In seconds, as the next ones.
_SETTLE = 0.02
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 10.0
_BURST = 1000  # responses of a watch that are taken in at once
_RELIST_CHECKS = 10  # so many slow checks to a listing that nothing asked for


class Stop(Exception):
    """A signal asks the program to end."""


def stop_signals() -> int:
    """A descriptor that is readable once SIGTERM or SIGINT has come."""
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_ignored: os.write(woken, b"."))
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    return wake


class Service:
    """``stop`` is a descriptor that is readable when the service is to end."""

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        registry: WatchedRegistry,
        monitor: Monitor,
        stop: int,
    ) -> None:
        self._settings = settings
        self._agent = agent
        self._registry = registry
        self._monitor = monitor
        self._stop = stop
        agent.status.pid = os.getpid()
        self._checks = 0
        self._announced = False
        self._watch_check = WatchCheck()
        self._retry = _FIRST_RETRY
        self._writing = Writing()
        self._life = SignOfLife()
        # When to do what, by time.monotonic(); None: not at all.
        now = time.monotonic()
        self._look_at: float | None = None
        self._check_at = now + jitter(settings.check_interval)
        self._renew_at = now + jitter(settings.ttl / 3) if settings.ttl else None
        registry.while_waiting(self._waiting)

    def run(self) -> None:
        """Until ``stop``."""
        with contextlib.suppress(Stop):
            while True:
                try:
                    self._list()
                    self._follow()
                except FlatnetError as error:
                    kind = "etcd" if isinstance(error, EtcdError) else "network"
                    self._agent.report.failed(kind, str(error))
                    self._recall()
                    self._announce("\nSTATUS=%s" % error)
                self._pause()
        notify("STOPPING=1")
        self._agent.status.connected(None)
        self._agent.status.pid = None
        self._write()

    # --- etcd -----------------------------------------------------------------------------------

    def _list(self) -> None:
        self._agent.take_listing(self._registry.find())
        for kind in ("etcd", "network", "location"):
            self._agent.report.healed(kind)
        self._writing.changed()
        if self._settings.ttl:
            # How much is left of it after we were away, nobody knows.
            self._renew_at = time.monotonic()

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
                    self._watch_check.begin(watch, self._registry.pulse(endpoint))
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
                        self._agent.report.failed("etcd", str(error))
                        self._registry.avoid(endpoint)
                self._watch_check.end()
                if not self._pause():
                    return
        except EtcdCompacted:
            pass  # listing is faster
        except EtcdError:
            self._registry.avoid(endpoint)
            raise
        finally:
            self._watch_check.end()

    def _pause(self) -> bool:
        """Go on without a watch for a while, each time longer; False if a new listing is needed."""
        self._agent.status.connected(None)
        self._writing.changed()
        wait, self._retry = self._retry, min(self._retry * 2, _LONGEST_RETRY)
        return self._serve(None, time.monotonic() + random.uniform(0, wait))

    def _watched(self, watch: Watch) -> bool:
        """Take in what the watch has, and look whether it still tells all; False if a new listing
        is needed."""
        responses = list(itertools.islice(_ready(watch), _BURST))
        if responses:
            if not self._agent.take_events(responses):
                return False
            self._writing.changed()
        answered = self._watch_check.answered
        self._watch_check.look(self._agent.revision)
        if self._watch_check.confirmed:
            self._retry = _FIRST_RETRY
            self._agent.report.healed("etcd")
        if self._watch_check.answered != answered:
            self._agent.status.connected(watch.endpoint if self._watch_check.answered else None)
            self._writing.changed()
        return True

    def _recall(self) -> None:
        """Without a listing, repair what drifted, and what will, from the last applied state."""
        try:
            recalled = self._agent.recall()
        except FlatnetError as error:
            self._agent.report.failed("location", str(error))
        else:
            self._agent.report.healed("location")
            if recalled:
                self._check()

    # --- what comes, and what is due ------------------------------------------------------------

    def _serve(self, watch: Watch | None, until: float | None) -> bool:
        """Handle what comes, until ``until``, or until a new listing is needed: then False."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._monitor.fileno(), select.POLLIN)
        if watch:
            poll.register(watch.fileno(), select.POLLIN)
        while True:
            if watch and not self._watched(watch):
                return False
            now = time.monotonic()
            if until is not None and now >= until:
                return True
            if not self._timers(now):
                return False
            times = [until, self._look_at, self._check_at, self._renew_at]
            times += [self._writing.due, self._life.due, self._watch_check.due if watch else None]
            first = (
                now if watch and watch.ready else min(each for each in times if each is not None)
            )
            with _polled(poll, self._watch_check.fileno() if watch else None):
                ready = {number for number, _event in poll.poll(max(first - now, 0) * 1000 + 1)}
            if self._stop in ready:
                raise Stop
            if self._monitor.fileno() in ready and self._suspicious() and self._look_at is None:
                self._look_at = time.monotonic() + _SETTLE

    def _suspicious(self) -> bool:
        ours, underlay = self._agent.watched
        return self._monitor.suspicious(self._agent.desired, ours, underlay)

    def _timers(self, now: float) -> bool:
        """Do what is due; False if a new listing is needed."""
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
            if not self._check():
                return False
        self._life.give()
        if self._writing.due is not None and now >= self._writing.due:
            self._write()
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = now + jitter(self._settings.ttl / 3)
            if not self._renew():
                return False
        if now >= self._check_at:
            self._check_at = now + jitter(self._settings.check_interval)
            self._checks += 1
            if not self._check():
                return False
            return self._checks % _RELIST_CHECKS != 0
        return True

    def _renew(self) -> bool:
        """Keep this host's lease alive; False if it is gone."""
        try:
            if not self._agent.keep_alive():
                return False
        except EtcdError as error:
            self._agent.report.failed("renewal", str(error))
        else:
            self._agent.report.healed("renewal")
        self._writing.changed()
        return True

    def _check(self) -> bool:
        """Compare everything with the kernel; False if a new listing is needed."""
        self._writing.changed()
        try:
            self._agent.check("drift")
        except UnderlayChanged as error:
            log(WARNING, str(error))
            self._registry.disconnect()
            return False
        except FlatnetError as error:
            self._agent.report.failed("kernel", str(error))
        return True

    # --- what others hear of it -----------------------------------------------------------------

    def _waiting(self) -> None:
        """etcd is about to be asked, for as long as its timeout at most: that is not hanging."""
        if self._announced:
            notify("WATCHDOG=1")
        else:
            take_longer(self._settings.etcd.timeout)
        self._life.given()

    def _announce(self, more: str = "") -> None:
        """Tell that the host is as right as it can be now; the first time with a status to read."""
        if self._announced:
            self._writing.changed()
        else:
            self._write()
            self._announced = True
        notify("READY=1" + more)

    def _write(self) -> None:
        self._writing.written()
        try:
            self._agent.save()
        except OSError as error:
            self._agent.report.failed(
                "state", "%s cannot be written: %s" % (error.filename, error.strerror)
            )
        else:
            self._agent.report.healed("state")
        write_status(self._settings, self._agent.status)


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
