# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident program as on a host: installed as a package, started, and what its kernel tells."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import typing as t
from pathlib import Path

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import package
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel import netlink

from tests.lab import Host, Lab

from . import inside
from .measure import cpu_seconds, resident

_PREFIX = "/etc/flatnet"
SETTINGS = "/etc/flatnet/sync.json"
COMMAND = package.launcher_path(_PREFIX, "sync")
_PATIENCE = 60.0
_MAIN_TABLE_LENGTH = 24
_ROUTE_GROUP = 7
_RTA_DST = 1
# Subnets above are those of hosts that lease for themselves.
_FLEET = range(1, 200)


def install() -> None:
    """On a host: put the command in place, as the role does."""
    package.install(_PREFIX, inside.PYTHON, "sync")
    path = Path(COMMAND)
    path.parent.mkdir(exist_ok=True)
    path.write_text(package.launcher(_PREFIX, inside.PYTHON, "sync"), encoding="utf-8")
    path.chmod(0o755)


def prepare(host: Host, lab: Lab, **more: t.Any) -> None:
    """The command and its settings."""
    inside.call(host, "resident", "install")
    path = host.etc / "flatnet" / "sync.json"
    found = {
        "etcd": {"endpoints": lab.etcd.endpoints},
        "bridge": "cni0",
        "state_file": "/etc/flatnet/state",
        "sysctls": {"net.ipv4.ip_forward": "1"},
        **more,
    }
    path.write_text(json.dumps(found), encoding="utf-8")


class Observer:
    """The kernel's own word on routes to the fleet, from the moment this is made."""

    def __init__(self) -> None:
        self._socket = netlink.open_socket(64 << 20)
        self._socket.setsockopt(netlink.SOL_NETLINK, 1, _ROUTE_GROUP)
        self.there: set[bytes] = set()

    def until(
        self, done: t.Callable[[set[bytes]], bool], patience: float = _PATIENCE
    ) -> float | None:
        """The time when ``done`` first held of the subnets that have a route; None: never."""
        deadline = time.monotonic() + patience
        while not done(self.there):
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(1 << 17)
            except TimeoutError:
                return None
            for kind, _flags, _sequence, body in netlink.split(data):
                dst = netlink.attributes(body, 12).get(_RTA_DST, b"")
                if body[1] != _MAIN_TABLE_LENGTH or dst[1] not in _FLEET:
                    continue
                if kind == netlink.RTM_NEWROUTE:
                    self.there.add(dst)
                elif kind == netlink.RTM_DELROUTE:
                    self.there.discard(dst)
        return time.monotonic()

    def close(self) -> None:
        self._socket.close()


class Running(t.NamedTuple):
    """A process that has all peers in the kernel, and how long that took it from its start."""

    process: subprocess.Popen[bytes]
    observer: Observer
    seconds: float

    @property
    def cpu(self) -> float:
        return cpu_seconds(self.process.pid)

    @property
    def resident(self) -> int:
        return resident(self.process.pid)


@contextlib.contextmanager
def running(argv: t.Sequence[str], peers: int) -> t.Iterator[Running]:
    """A process that programs so many peers, until the end of the block."""
    observer = Observer()
    with open("/run/bench.log", "ab") as log:
        start = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = observer.until(lambda there: len(there) >= peers)
            if end is None:
                tail = Path("/run/bench.log").read_text(encoding="utf-8")[-2000:]
                raise RuntimeError("%s has %d peers: %s" % (argv, len(observer.there), tail))
            yield Running(process, observer, end - start)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            observer.close()


def forget(devices: t.Iterable[str]) -> None:
    """Take devices away, and with them all that they hold."""
    for device in devices:
        subprocess.run(["ip", "link", "del", device], check=False, stderr=subprocess.DEVNULL)
