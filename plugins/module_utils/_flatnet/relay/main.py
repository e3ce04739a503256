# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's main process: starts the workers, reads the table, and answers clients.

It carries no packets. So a client is answered under load as well, and no packet waits while a table
of thousands of peers is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..host import files
from ..host.journal import ERROR, INFO, NOTICE, log, notify
from . import report, rights
from .channel import Channel
from .clients import Client, Clients, Entrance
from .config import InvalidRelayConfig, RelaySettings, RelayTable, load_settings, load_table
from .ends import End, open_ends
from .rights import RelayFailed
from .router import pack
from .wires import NOT_IPV4
from .worker import COUNTERS, DeviceGone, Worker
from .worker_reports import Mail

_PATIENCE = 10.0  # seconds that a worker may take to answer
_LOOK = 10.0  # seconds between looks at the workers: for the watchdog, metrics, the journal
# A status is used for so many seconds, and longer if making it has taken long: making them may take
# only this part of the workers' time.
_FRESH, _PART = 1.0, 0.02


class Question:
    """A question to all workers, and the clients that wait for the answer."""

    def __init__(self, channels: list[Channel], clients: list[Client]) -> None:
        self.open = set(channels)
        self.answers: list[Any] = []
        self.clients = clients
        self.began = time.monotonic()


class Relay:
    """``run`` until a signal ends it; raises FlatnetError."""

    def __init__(self, settings: RelaySettings, path: str, version: str) -> None:
        self._settings = settings
        self._path = path
        self._outdated = False
        self._version = version
        self._table = RelayTable()
        # The digest of the table that the workers were given last; the stamp of the file that was
        # read last.
        self._handed = ""
        self._read = (0, 0, 0)
        self._error = ""
        self._started = time.time()
        self._offload: dict[str, Any] = {}
        self._children: list[int] = []
        self._channels: list[Channel] = []
        self._told: Counter[str] = Counter()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        # Questions that the workers have not answered yet; clients that wait for the next ones.
        self._asked: dict[str, Question] = {}
        self._for_status: list[Client] = []
        self._for_reload: list[Client] = []
        self._reload_wanted = False
        # The last status, in the forms that clients ask for, and until when it is used.
        self._shown: dict[str, bytes] = {}
        self._shown_until = 0.0
        watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
        self._every = min(watchdog or _LOOK, _LOOK)
        self._look_at = time.monotonic() + self._every

    def run(self) -> None:
        user = rights.account(self._settings.user)
        ends = open_ends(self._settings)
        queue, sock = ends[0]
        self._offload = {
            "device": queue.offload,
            "udp_segment": sock.gso,
            "udp_gro": sock.gro,
            "receive_buffer": sock.buffer,
        }
        entrances = rights.entrances(self._settings.control, user)
        rights.become(user)
        self._load()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_ignored: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        clients = Clients(self._poll, entrances)
        try:
            self._start(ends, entrances)
            self._serve(clients)
            notify("STOPPING=1")
        finally:
            clients.close()
            for channel in self._channels:
                channel.close()
            for pid in self._children:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            for path in rights.paths(self._settings.control):
                # Not in a folder of root's: there the next relay removes them, as root.
                with contextlib.suppress(OSError):
                    os.unlink(path)

    # --- start ------------------------------------------------------------------------------------

    def _start(self, ends: list[End], entrances: list[Entrance]) -> None:
        mail = Mail(len(ends))
        for number, (queue, sock) in enumerate(ends):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    ours.close()
                    for entrance in entrances:
                        entrance.listener.close()
                    for channel in self._channels:
                        channel.close()
                    for other, (its_queue, its_sock) in enumerate(ends):
                        if other != number:
                            os.close(its_queue.fileno)
                            its_sock.udp.close()
                    signal.set_wakeup_fd(-1)
                    # Systemd and a terminal signal all processes at once. A worker ends when the
                    # main process does.
                    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                        signal.signal(each, signal.SIG_IGN)
                    box = mail.box(number)
                    Worker(number, self._settings, queue, sock, Channel(theirs), box).run()
                    status = 0
                except DeviceGone:
                    log(ERROR, "device %s is gone" % self._settings.device)
                except OSError as error:
                    log(ERROR, "worker %d: %s" % (number, error))
                finally:
                    os._exit(status)
            theirs.close()
            self._children.append(pid)
            self._channels.append(Channel(ours))
        mail.close()
        for queue, sock in ends:
            os.close(queue.fileno)
            sock.udp.close()

    # --- the table --------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read the table. If that fails, the table before stays in use: at the start, none."""
        self._read = _stamp(self._settings.table_file)
        try:
            self._table = load_table(self._settings.table_file)
            self._error = ""
        except InvalidRelayConfig as error:
            self._error = str(error)
            log(ERROR, "%s; %d peers stay" % (error, len(self._table.peers)))

    def _reload(self, clients: Clients) -> None:
        """Read the files anew. Clients that asked for it are answered once the table is in use."""
        askers, self._for_reload = self._for_reload, []
        self._reload_wanted = False
        with contextlib.suppress(InvalidRelayConfig):
            self._outdated = load_settings(self._path) != self._settings
        before = self._table
        self._load()
        if self._table.peers != before.peers:
            log(
                INFO,
                "revision %d: %d peers, %d before"
                % (self._table.revision, len(self._table.peers), len(before.peers)),
            )
            self._hand_out(askers)
        else:
            self._tell_loaded(clients, askers)

    def _hand_out(self, askers: list[Client]) -> None:
        self._handed = self._table.digest
        self._ask("table", askers, self._handed, pack(self._table.peers))

    def _in_use(self, workers: Iterable[str] = ()) -> dict[str, Any]:
        """The table, for an answer. It has its digest only if all workers say that they use it."""
        taken = set(workers) <= {self._handed}
        return {
            "revision": self._table.revision,
            "peers": len(self._table.peers),
            "digest": self._table.digest if taken else "",
        }

    def _tell_loaded(self, clients: Clients, askers: list[Client]) -> None:
        answer: dict[str, Any] = {"error": self._error}
        if not self._error:
            answer = self._in_use()
        for client in askers:
            clients.answer(client, _line(answer))

    # --- serving ----------------------------------------------------------------------------------

    def _serve(self, clients: Clients) -> None:
        """Until a signal ends it. It never waits for one worker or one client."""
        ready_told = False
        self._poll.register(self._wake, select.POLLIN)
        self._hand_out([])
        while True:
            for channel in self._channels:
                self._poll.register(channel, channel.events)
            now = time.monotonic()
            wait = min(self._look_at - now, clients.wait(now) if ready_told else _PATIENCE)
            if "status" in self._asked:
                wait = _PATIENCE / 10
            ready = dict(self._poll.poll(max(wait, 0) * 1000 + 1))
            if self._wake in ready:
                came = os.read(self._wake, 64)
                if set(came) & {signal.SIGTERM, signal.SIGINT}:
                    return
                self._reload_wanted = True
            for channel in self._channels:
                if channel.fileno() in ready:
                    self._attend(channel, clients)
            if not ready_told:
                if self._asked:
                    self._be_patient()
                    continue
                ready_told = True
                self._say_ready()
            for client, what in clients.serve(ready):
                self._take(client, what, clients)
            if self._reload_wanted and "table" not in self._asked:
                self._reload(clients)
            if self._outdated and "table" not in self._asked:
                raise RelayFailed("%s has changed: starting anew" % self._path)
            due = time.monotonic() >= self._look_at
            if (due or self._for_status) and "status" not in self._asked:
                askers, self._for_status = self._for_status, []
                self._ask("status", askers)
            self._be_patient()

    def _say_ready(self) -> None:
        log(
            INFO,
            "carries %s over %s:%d with %d workers: %s"
            % (
                self._settings.device,
                self._settings.listen,
                self._settings.port,
                len(self._channels),
                ", ".join("%s %s" % each for each in sorted(self._offload.items())),
            ),
        )
        notify("READY=1")

    def _take(self, client: Client, what: str, clients: Clients) -> None:
        """Take a request. It is answered at once, or when the workers have answered."""
        if what == "reload":
            self._reload_wanted = True
            self._for_reload.append(client)
        elif client.trusted or time.monotonic() >= self._shown_until:
            self._for_status.append(client)
        else:
            clients.answer(client, self._shown[what])

    def _ask(self, what: str, askers: list[Client], *values: Any) -> None:
        self._asked[what] = Question(self._channels, askers)
        for channel in self._channels:
            channel.tell(what, *values)

    def _attend(self, channel: Channel, clients: Clients) -> None:
        """Write to and read from a worker."""
        channel.flush()
        messages = channel.hear()
        if messages is None:
            raise RelayFailed("a worker ended")
        for what, *values in messages:
            question = self._asked[what]
            question.open.discard(channel)
            question.answers += values
            if question.open:
                continue
            del self._asked[what]
            if what == "table":
                self._tell_loaded(clients, question.clients)
            else:
                self._show(question, clients)

    def _be_patient(self) -> None:
        for question in self._asked.values():
            if time.monotonic() > question.began + _PATIENCE:
                raise RelayFailed("a worker does not answer")

    def _show(self, question: Question, clients: Clients) -> None:
        """Make the status from the workers' answers: for clients, and for the watchdog, the journal
        and the metrics."""
        found = self._status(question.answers)
        # Most clients need no peers, of which there may be thousands.
        summary = {name: value for name, value in found.items() if name != "peers"}
        self._shown = {"status": _line(found), "summary": _line(summary)}
        now = time.monotonic()
        # Clients that came meanwhile get it as well, unless they may insist on a newer one.
        also = [each for each in self._for_status if not each.trusted]
        self._for_status = [each for each in self._for_status if each.trusted]
        for client in question.clients + also:
            clients.answer(client, self._shown[client.wants])
        self._shown_until = now + max(_FRESH, (now - question.began) / _PART)
        notify("WATCHDOG=1")
        if now >= self._look_at:
            self._look_at = now + self._every
            self._look(found)

    def _status(self, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """The status, from what the workers answered."""
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
            "workers": len(self._channels),
            "table": self._in_use(answer["table"] for answer in answers),
            "table_error": self._error,
            "totals": dict(totals),
            "drops": dict(drops),
            "icmp_sent": sum(answer["icmp_sent"] for answer in answers),
            "peers": sorted(peers.values(), key=lambda each: each["address"]),
        }

    def _look(self, found: dict[str, Any]) -> None:
        """Every few seconds: log new drops, write the metrics, and see whether the table's file is
        another one, in case nobody has told the relay, or it did not hear."""
        if _stamp(self._settings.table_file) != self._read:
            self._reload_wanted = True
        drops = Counter(found["drops"])
        # The host's own kernel sends some IPv6 by itself. No operator has to do anything about it.
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


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode() + b"\n"


def _stamp(path: str) -> tuple[int, int, int]:
    """It differs if another file is in this file's place."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
