# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's main process: starts the workers, and answers for them.

It carries no packets, so that whoever asks is answered under load as well, and reading a table of
thousands of peers holds nothing up.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import json
import os
import pwd
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .. import files
from ..errors import FlatnetError
from ..program import ERROR, INFO, NOTICE, WARNING, log, notify
from . import device, report
from .config import (
    InvalidRelayConfig,
    RelaySettings,
    RelayTable,
    load_settings,
    load_table,
)
from .mail import Mail
from .router import pack
from .wires import NOT_IPV4
from .worker import COUNTERS, DeviceGone, Worker, hear, tell

_MOST_AUTOMATIC = 4
_PATIENCE = 10.0  # seconds that a worker may take to answer
_LOOK = 10.0  # seconds between looks at the workers: for the watchdog, metrics, the journal
_REQUEST = 4096
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2


class RelayFailed(FlatnetError):
    """The relay cannot go on; whoever keeps it starts it again."""


class Relay:
    """``run`` until a signal ends it; raises FlatnetError."""

    def __init__(self, settings: RelaySettings, path: str, version: str) -> None:
        self._settings = settings
        self._path = path
        self._outdated = False
        self._version = version
        self._table = RelayTable()
        self._error = ""
        self._started = time.time()
        self._offload: dict[str, Any] = {}
        self._children: list[tuple[int, socket.socket]] = []
        self._told: Counter[str] = Counter()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        ends = self._open()
        listener = self._listen()
        self._become()
        self._load()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_ignored: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        try:
            self._start(ends, listener)
            self._hand_out()
            log(
                INFO,
                "carries %s over %s:%d with %d workers: %s"
                % (
                    self._settings.device,
                    self._settings.listen,
                    self._settings.port,
                    len(self._children),
                    ", ".join("%s %s" % each for each in sorted(self._offload.items())),
                ),
            )
            notify("READY=1")
            self._serve(listener)
            notify("STOPPING=1")
        finally:
            for pid, channel in self._children:
                channel.close()
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
                    os.waitpid(pid, 0)
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._settings.control)

    # --- start ------------------------------------------------------------------------------------

    def _open(self) -> list[tuple[device.Queue, device.Socket]]:
        """A queue and a socket for each worker."""
        settings = self._settings
        wanted = settings.workers
        if not wanted:
            wanted = max(1, min(_MOST_AUTOMATIC, len(os.sched_getaffinity(0)) // 2))
        ends = []
        for dummy in range(wanted):
            queue = device.attach(settings.device)
            if wanted > 1 and not queue.multiple:
                log(WARNING, "device %s has one queue: one worker" % settings.device)
                wanted = 1
            ends.append((queue, device.listen(settings.listen, settings.port, wanted > 1)))
            if wanted == 1:
                break
        queue, sock = ends[0]
        self._offload = {
            "device": queue.offload,
            "udp_segment": sock.gso,
            "udp_gro": sock.gro,
            "receive_buffer": sock.buffer,
        }
        return ends

    def _listen(self) -> socket.socket:
        path = self._settings.control
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            listener.bind(path)
            # Whoever is on the host may ask; there is nothing that could do harm.
            os.chmod(path, 0o666)
            listener.listen(16)
        except OSError as error:
            raise RelayFailed("control %s: %s" % (path, error.strerror)) from None
        return listener

    def _become(self) -> None:
        """Give up root's rights, if they were ever had; nothing after this needs them."""
        name = self._settings.user
        if os.geteuid() or not name:
            return
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            raise RelayFailed("user: there is no user %s" % name) from None
        os.chown(os.path.dirname(self._settings.control), user.pw_uid, user.pw_gid)
        os.chown(self._settings.control, user.pw_uid, user.pw_gid)
        # That the end of whoever started it is its end too, which becoming another user forgets.
        parent, libc, number = os.getppid(), ctypes.CDLL(None), ctypes.c_int()
        libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
        os.setgroups([g.gr_gid for g in grp.getgrall() if name in g.gr_mem])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        libc.prctl(_PR_SET_PDEATHSIG, number.value)
        if number.value and os.getppid() != parent:
            raise RelayFailed("whoever started it is gone")

    def _start(
        self, ends: list[tuple[device.Queue, device.Socket]], listener: socket.socket
    ) -> None:
        mail = Mail(len(ends))
        for number, (queue, sock) in enumerate(ends):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    ours.close()
                    listener.close()
                    for dummy, channel in self._children:
                        channel.close()
                    for other, (its_queue, its_sock) in enumerate(ends):
                        if other != number:
                            os.close(its_queue.fileno)
                            its_sock.udp.close()
                    signal.set_wakeup_fd(-1)
                    for each in (signal.SIGTERM, signal.SIGINT):
                        signal.signal(each, signal.SIG_DFL)
                    box = mail.box(number)
                    Worker(number, self._settings, queue, sock, theirs, box).run()
                    status = 0
                except DeviceGone:
                    log(ERROR, "device %s is gone" % self._settings.device)
                except OSError as error:
                    log(ERROR, "worker %d: %s" % (number, error))
                finally:
                    os._exit(status)
            theirs.close()
            ours.settimeout(_PATIENCE)
            self._children.append((pid, ours))
        mail.close()
        for queue, sock in ends:
            os.close(queue.fileno)
            sock.udp.close()

    # --- the table --------------------------------------------------------------------------------

    def _load(self) -> None:
        """At the start a table that cannot be read is none; later the one before stays."""
        try:
            self._table = load_table(self._settings.table_file)
            self._error = ""
        except InvalidRelayConfig as error:
            self._error = str(error)
            log(ERROR, "%s; %d peers stay" % (error, len(self._table.peers)))

    def _hand_out(self) -> None:
        records = pack(self._table.peers)
        self._tell("table", records)
        for dummy, channel in self._children:
            self._answer(channel, "done")

    def _tell(self, *message: Any) -> None:
        """All workers."""
        for dummy, channel in self._children:
            try:
                tell(channel, *message)
            except socket.timeout:
                raise RelayFailed("a worker does not listen") from None
            except OSError:
                raise RelayFailed("a worker ended") from None

    def _answer(self, channel: socket.socket, wanted: str) -> tuple[Any, ...]:
        """A worker's answer."""
        while True:
            try:
                message = hear(channel)
            except socket.timeout:
                raise RelayFailed("a worker does not answer") from None
            except OSError:
                message = None
            if message is None:
                raise RelayFailed("a worker ended")
            if message[0] == wanted:
                return message[1:]

    # --- serving ----------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket) -> None:
        poll = select.poll()
        channels = {channel.fileno(): channel for dummy, channel in self._children}
        for number in (self._wake, listener.fileno(), *channels):
            poll.register(number, select.POLLIN)
        watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
        every = min(watchdog or _LOOK, _LOOK)
        look_at = time.monotonic() + every
        while True:
            ready = {n for n, dummy in poll.poll(max(look_at - time.monotonic(), 0) * 1000 + 1)}
            if self._wake in ready:
                came = os.read(self._wake, 64)
                if set(came) & {signal.SIGTERM, signal.SIGINT}:
                    return
                self._reload()
            for number in ready & channels.keys():
                # Nobody has asked it anything.
                with contextlib.suppress(OSError):
                    if hear(channels[number]) is not None:
                        continue
                raise RelayFailed("a worker ended")
            if listener.fileno() in ready:
                self._accept(listener)
            if self._outdated:
                raise RelayFailed("%s has changed: starting anew" % self._path)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + every
                self._look()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, dummy = listener.accept()
            with connection:
                connection.settimeout(1.0)
                answer = self._obey(connection.recv(_REQUEST))
                connection.settimeout(5.0)
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _obey(self, request: bytes) -> dict[str, Any]:
        commands: dict[str, Callable[[], dict[str, Any]]] = {
            "status": self.status,
            "reload": self._reload,
        }
        try:
            command = commands[json.loads(request)["command"]]
        except (ValueError, KeyError, TypeError):
            return {"error": "the commands are %s" % " and ".join(sorted(commands))}
        return command()

    def _reload(self) -> dict[str, Any]:
        with contextlib.suppress(InvalidRelayConfig):
            self._outdated = load_settings(self._path) != self._settings
        before = self._table
        self._load()
        if self._error:
            return {"error": self._error}
        if self._table.peers != before.peers:
            self._hand_out()
            log(
                INFO,
                "revision %d: %d peers, %d before"
                % (self._table.revision, len(self._table.peers), len(before.peers)),
            )
        return {"revision": self._table.revision, "peers": len(self._table.peers)}

    def status(self) -> dict[str, Any]:
        """All that is known, for ``report``."""
        self._tell("status")
        answers = [self._answer(channel, "status")[0] for dummy, channel in self._children]
        totals: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        drops: Counter[str] = Counter()
        peers: dict[str, dict[str, Any]] = {}
        for answer in answers:
            totals.update(answer["totals"])
            drops.update(answer["drops"])
            for address, counts, mode, mtu in answer["peers"]:
                found = peers.setdefault(
                    address, {"address": address, "subnets": [], "mode": mode, "mtu": mtu}
                )
                found["mtu"] = min(mtu, found["mtu"])
                found["mode"] = max(mode, found["mode"])
                for name, count in zip(COUNTERS, counts):
                    found[name] = found.get(name, 0) + count
        for peer in self._table.peers:
            if peer.address in peers:
                peers[peer.address]["subnets"].append(peer.subnet)
        return {
            "version": self._version,
            "pid": os.getpid(),
            "started": self._started,
            "settings": self._settings._asdict(),
            "offload": self._offload,
            "workers": len(self._children),
            "table": {"revision": self._table.revision, "peers": len(self._table.peers)},
            "table_error": self._error,
            "totals": dict(totals),
            "drops": dict(drops),
            "icmp_sent": sum(answer["icmp_sent"] for answer in answers),
            "peers": sorted(peers.values(), key=lambda each: each["address"]),
        }

    def _look(self) -> None:
        found = self.status()
        notify("WATCHDOG=1")
        drops = Counter(found["drops"])
        # What the host's own kernel has to say in IPv6 is nothing that an operator could mend.
        more = drops - self._told - Counter({NOT_IPV4: drops[NOT_IPV4]})
        self._told = drops
        if more:
            log(
                NOTICE,
                "dropped since the last line: %s"
                % ", ".join("%d %s" % (count, reason) for reason, count in more.most_common()),
            )
        if self._settings.metrics_file:
            try:
                text = report.metrics(found).encode()
                files.publish(self._settings.metrics_file, text)
            except OSError as error:
                log(ERROR, "metrics %s: %s" % (self._settings.metrics_file, error.strerror))
