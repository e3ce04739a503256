# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service's loop: what it does when etcd, the kernel or the clock has something for it.

Time and events are a script: see fakes.py. Whole runs are in tests/integration/sync.
"""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdUnreachable,
)

from tests.unit.sync.fake_etcd import ENDPOINT
from tests.unit.sync.fake_kernel import VTEP
from tests.unit.sync.fake_loop import Loop, Script
from tests.unit.sync.fakes import VXLAN, lease, tunnels, world


def test_it_lists_follows_and_stops(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        host.etcd.put_lease(lease(4))
        yield
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        host.etcd.delete_lease(lease(1), lease(2))
        yield
        assert host.kernel.tunnels() == tunnels(3, 4)
        assert host.listings == 1

    loop.run(script())
    assert host.etcd.watches[-1].closed
    assert loop.notified == ["READY=1", "STOPPING=1"]
    found = host.written()
    assert (found["pid"], found["connected"]) == (None, False)
    assert host.kernel.tunnels() == tunnels(3, 4), "the data plane stays"


def test_it_is_ready_when_there_is_a_status_to_read(loop: Loop) -> None:
    found: list[dict[str, t.Any]] = []
    notified = loop.notified

    class Notified(list[str]):
        def append(self, text: str) -> None:
            if text.startswith("READY"):
                found.append(loop.host.written())
            super().append(text)

    loop.notified = Notified(notified)

    def script() -> Script:
        yield

    loop.run(script())
    assert len(found) == 1
    assert found[0]["connected"]
    assert found[0]["endpoint"] == ENDPOINT
    assert found[0]["peers"] == 3
    assert Path(loop.host.settings.state_file).exists()


def test_a_burst_of_events_is_taken_in_as_one(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        host.kernel.batches.clear()
        for number in range(10, 60):
            host.etcd.put_lease(lease(number))
        yield
        assert len(host.kernel.batches) == 3, "neighbours, FDB, routes"
        assert host.status()["peers"] == 53

    loop.run(script())


# --- this host ------------------------------------------------------------------------------------


def test_when_the_kernel_tells_of_a_change_it_looks_once(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        checks: list[str] = []
        check = host.agent.check

        def counted(why: str) -> t.Any:
            checks.append(why)
            return check(why)

        host.agent.check = counted  # type: ignore[method-assign]
        # Several notifications of one cause.
        host.kernel.drop(*host.kernel.entries_on(VTEP)[-1:])
        loop.monitor.pending = True
        yield 0.005
        loop.monitor.pending = True
        yield 0.005
        loop.monitor.pending = True
        yield 1
        assert checks == ["drift"]
        # A storm of them does not put the look off.
        for _time in range(20):
            loop.monitor.pending = True
            yield 0.005
        assert len(checks) > 2
        assert host.status()["repaired"] == 1
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert loop.monitor.asked[-1] == (frozenset({VTEP, "cni0"}), "eth0")

    loop.run(script())


def test_it_looks_now_and_then_and_lists_now_and_then(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        yield 5 * 60
        assert host.listings == 1
        host.kernel.drop(*host.kernel.entries_on(VTEP)[-1:])
        yield 80
        assert host.status()["repaired"] == 1
        yield 8 * 60
        assert host.listings == 2
        assert host.status()["errors"] == []

    loop.run(script())


def test_another_address_moves_the_lease(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        host.kernel.move("172.21.0.11")
        loop.monitor.pending = True
        yield 5
        assert json.loads(host.etcd.lease_of(200))["PublicIP"] == "172.21.0.11"
        assert host.logged("the address of eth0 changed") == 1
        assert host.written()["public_ip"] == "172.21.0.11"

    loop.run(script())


def test_the_state_is_written_when_it_is_quiet_and_in_a_storm_now_and_then(loop: Loop) -> None:
    host = loop.host
    state = Path(host.settings.state_file)

    def revision() -> int:
        return int(json.loads(state.read_text().partition("\n")[2])["revision"])

    def script() -> Script:
        yield 10
        host.etcd.put_lease(lease(4))
        yield 0.5
        assert revision() < host.etcd.revision
        yield 1
        assert revision() == host.etcd.revision
        quiet = revision()
        for number in range(10, 24):
            host.etcd.put_lease(lease(number))
            yield 0.5
        assert quiet < revision() < host.etcd.revision, "one was written during the storm"

    loop.run(script())


def test_a_state_that_cannot_be_written_is_told(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = loop.host
    saved = host.agent.save

    def full() -> None:
        raise OSError(28, "No space left on device")

    def script() -> Script:
        monkeypatch.setattr(host.agent, "save", full)
        host.etcd.put_lease(lease(4))
        yield 3
        assert "No space left" in host.error("state")
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        monkeypatch.setattr(host.agent, "save", saved)
        host.etcd.put_lease(lease(5))
        yield 3
        assert host.status()["errors"] == []

    loop.run(script())


def test_a_lease_with_a_ttl_is_kept_alive(tmp_path: Path) -> None:
    with world(tmp_path, own=False, ttl=30) as host:
        renewed: list[float] = []
        keep_alive = host.agent.keep_alive

        def counted() -> bool:
            renewed.append(host.clock.now)
            return keep_alive()

        host.agent.keep_alive = counted  # type: ignore[method-assign]

        def script() -> Script:
            yield 60
            pauses = [after - before for before, after in zip(renewed, renewed[1:])]
            assert all(7 < pause < 13 for pause in pauses), pauses
            assert len(pauses) >= 4
            # It ran out all the same: it is written again.
            subnet = int(host.status()["subnet"].split(".")[2])
            host.etcd.expire()
            yield 15
            assert host.etcd.lease_of(subnet)
            assert host.status()["errors"] == []
            # A renewal that fails is told, and the next one tells that it is over.
            host.etcd.lease_keepalive = fails  # type: ignore[method-assign]
            yield 15
            assert "cannot be reached" in host.error("renewal")
            del host.etcd.lease_keepalive
            yield 15
            assert host.status()["errors"] == []

        def fails(_number: int) -> int:
            raise EtcdUnreachable("etcd cannot be reached")

        Loop(host).run(script())


def test_systemd_hears_that_it_lives(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")

    def script() -> Script:
        loop.notified.clear()
        yield 61
        signs = loop.notified.count("WATCHDOG=1")
        assert 6 <= signs <= 8

    loop.run(script())


def test_asking_etcd_is_not_hanging(loop: Loop) -> None:
    """Each time that etcd is waited for, systemd hears of it; before the start is done, also for
    how long that may take."""
    host = loop.host

    def waits() -> None:
        host.etcd.waits()

    host.etcd.before_listing = waits

    def script() -> Script:
        assert loop.notified[0] == "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=35000000"
        loop.notified.clear()
        host.etcd.put_config(VXLAN)
        yield 1
        assert "WATCHDOG=1" in loop.notified

    loop.run(script())
