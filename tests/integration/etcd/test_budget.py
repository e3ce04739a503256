# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a call takes at most, and what systemd hears of a program that waits for etcd.

Item: the time-outs of many endpoints together stay below the watchdog's and systemd's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdClient,
    EtcdTimeout,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import settings

from tests.lab.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def silent() -> t.Iterator[list[str]]:
    """A dozen endpoints that take connections and never answer."""
    with contextlib.ExitStack() as stack:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(12)]
        for each in listeners:
            stack.enter_context(each)
        yield ["http://127.0.0.1:%d" % each.getsockname()[1] for each in listeners]


def test_a_call_is_bounded_however_many_endpoints_hang(silent: list[str]) -> None:
    tries = []
    with EtcdClient(silent, timeout=2) as client:
        client.while_waiting(lambda: tries.append(time.monotonic()))
        begin = time.monotonic()
        with pytest.raises(EtcdTimeout) as caught:
            client.get("/a")
        # Three times two seconds; it was twelve times three.
        assert time.monotonic() - begin < 24
    # And every endpoint had its turn.
    assert len(tries) == len(silent)
    assert all(url in str(caught.value) for url in silent)


class Systemd:
    """What sd_notify says, heard."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        self._socket.close()

    def hear(self) -> str:
        self.said.append(self._socket.recv(4096).decode())
        return self.said[-1]


@pytest.fixture
def systemd(tmp_path: Path) -> t.Iterator[Systemd]:
    made = Systemd(tmp_path)
    yield made
    made.close()


def start(tmp_path: Path, command: str, endpoints: list[str]) -> subprocess.Popen[str]:
    """The program, which finds nothing in etcd, and so changes nothing."""
    (tmp_path / "flatnet").symlink_to(REPOSITORY / "plugins/module_utils/_flatnet")
    found = {
        "etcd": {"endpoints": endpoints, "timeout": 1},
        "state_file": str(tmp_path / "state"),
        "status_file": str(tmp_path / "status"),
        "subnet_file": str(tmp_path / "subnet.env"),
    }
    (tmp_path / "sync.json").write_text(json.dumps(found))
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flatnet.sync.command",
            "--settings",
            str(tmp_path / "sync.json"),
            command,
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "120000000",
        },
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )


def test_systemd_hears_of_the_service_while_it_waits_for_etcd(
    tmp_path: Path, systemd: Systemd, silent: list[str]
) -> None:
    process = start(tmp_path, "watch", silent[:4])
    try:
        while not systemd.hear().startswith("READY=1"):
            pass
        # Each attempt asked for more time than it could take, and fed the watchdog.
        before = systemd.said[:-1]
        assert len(before) == 4, before
        assert all("WATCHDOG=1" in each for each in before)
        assert all("EXTEND_TIMEOUT_USEC=31000000" in each for each in before)
        # Afterwards only the watchdog is fed, which is of every 40 seconds by the clock.
        for _ in range(5):
            systemd.hear()
        assert "WATCHDOG=1" in systemd.said[-5:]
        assert not any("EXTEND" in each for each in systemd.said[-5:])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def test_systemd_hears_of_a_single_run_while_it_waits_for_etcd(
    tmp_path: Path, systemd: Systemd, silent: list[str]
) -> None:
    process = start(tmp_path, "once", silent[:4])
    assert process.wait(PATIENCE) == 1
    for _ in range(4):
        assert "EXTEND_TIMEOUT_USEC=31000000" in systemd.hear()


def test_the_resident_program_waits_for_half_the_watchdog_at_most() -> None:
    unit = (REPOSITORY / "roles/sync/templates/flatnet-sync.service.j2").read_text()
    found = re.search(r"^WatchdogSec=(\d+)$", unit, re.MULTILINE)
    assert found
    longest = int(found.group(1)) // 2
    assert settings.parse({"etcd": {"timeout": longest}}).etcd.timeout == longest
    for wrong in (longest + 1, 0, -1, 86400):
        with pytest.raises(InvalidInput, match="etcd.timeout: %s is not" % wrong):
            settings.parse({"etcd": {"timeout": wrong}})


_RESOLVING = """
import socket, sys, time
sys.path.insert(0, {path!r})
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
from flatnet.etcd.client import EtcdClient, EtcdUnreachable
begin = time.monotonic()
with EtcdClient(["http://etcd.example.com:2379"], timeout=1) as client:
    for dummy in range(2):
        try:
            client.get("/a")
        except EtcdUnreachable as error:
            print(error)
print(time.monotonic() - begin)
"""


def test_a_name_server_that_is_silent_costs_one_timeout(tmp_path: Path) -> None:
    """Item: name resolution that hangs. The system's own limits here are a minute and more."""
    (tmp_path / "flatnet").symlink_to(REPOSITORY / "plugins/module_utils/_flatnet")
    resolv, nsswitch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    nsswitch.write_text("hosts: dns\n")
    script = (
        "mount --bind %s /etc/resolv.conf && mount --bind %s /etc/nsswitch.conf && "
        "ip link set lo up && exec %s -" % (resolv, nsswitch, sys.executable)
    )
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        input=_RESOLVING.format(path=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    *errors, seconds = done.stdout.splitlines()
    assert len(errors) == 2
    assert all("etcd.example.com:2379: the name does not resolve in time" in e for e in errors)
    assert float(seconds) < 30
