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
    EtcdNoQuorum,
    EtcdUnreachable,
)

from tests.unit.sync.fake_etcd import ENDPOINT
from tests.unit.sync.fake_kernel import VTEP
from tests.unit.sync.fake_loop import Loop, Script
from tests.unit.sync.fakes import OWN, VXLAN, World, lease, tunnels, world


@pytest.fixture
def loop(host: World) -> Loop:
    return Loop(host)


def written(host: World) -> dict[str, t.Any]:
    """The status as others read it; empty before there is one."""
    try:
        found: dict[str, t.Any] = json.loads(Path(host.settings.status_file).read_text())
    except FileNotFoundError:
        return {}
    return found


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
    found = written(host)
    assert (found["pid"], found["connected"]) == (None, False)
    assert host.kernel.tunnels() == tunnels(3, 4), "the data plane stays"


def test_it_is_ready_when_there_is_a_status_to_read(loop: Loop) -> None:
    found: list[dict[str, t.Any]] = []
    notified = loop.notified

    class Notified(list[str]):
        def append(self, text: str) -> None:
            if text.startswith("READY"):
                found.append(written(loop.host))
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


# --- between listing and watch --------------------------------------------------------------------


def test_what_is_written_while_it_lists_is_told_by_the_watch(loop: Loop) -> None:
    host = loop.host

    def meanwhile() -> None:
        """After the listing, while this host's lease is written."""
        host.etcd.put_lease(lease(4))
        host.etcd.delete_lease(lease(1))

    host.etcd.delete_lease(OWN)
    host.etcd.before_write.append(meanwhile)

    def script() -> Script:
        assert host.kernel.tunnels() == tunnels(2, 3, 4)
        assert host.listings == 1
        yield

    loop.run(script())
    assert host.status()["retained"] == 0


def test_events_that_arrive_while_it_lists_again_are_not_lost(loop: Loop) -> None:
    """The config is written, which asks for a listing. Peers come and go before the listing, and
    between it and the next watch."""
    host = loop.host
    take = host.agent.take_listing

    def and_then(found: t.Any) -> None:
        take(found)
        host.agent.take_listing = take  # type: ignore[method-assign]
        host.etcd.put_lease(lease(6))
        host.etcd.delete_lease(lease(3))

    def script() -> Script:
        host.agent.take_listing = and_then  # type: ignore[method-assign]
        host.etcd.delete_lease(lease(1))
        host.etcd.put_config(VXLAN.replace('"vxlan"', '"vxlan","MTU":1400'))
        host.etcd.put_lease(lease(4))
        yield
        host.etcd.put_lease(lease(5))
        host.etcd.delete_lease(lease(2))
        yield 1
        assert host.kernel.tunnels() == tunnels(4, 5, 6)
        assert host.status()["retained"] == 0
        assert host.listings == 2

    loop.run(script())


def test_after_a_compaction_it_lists_and_says_nothing_of_a_failure(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        # The connection breaks; by the next watch all until then is compacted.
        host.etcd.watches[-1].end = EtcdNoQuorum("no leader")
        host.etcd.put_lease(lease(4))
        host.etcd.put_lease(lease(5))
        host.etcd.compact()
        yield 1
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4, 5)
        assert host.listings == 2
        assert host.status()["errors"] == []

    loop.run(script())


def test_an_own_lease_that_is_deleted_is_back_at_once(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        host.etcd.delete_lease(OWN)
        yield 1
        assert host.etcd.lease_of(200) == OWN.to_json()
        assert host.listings >= 2
        assert host.status()["errors"] == []

    loop.run(script())


# --- etcd goes away -------------------------------------------------------------------------------


def test_without_etcd_the_data_plane_stays_and_is_repaired(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        host.etcd.away = True
        host.etcd.watches[-1].end = EtcdUnreachable("the member ended the connection")
        yield 100
        assert "cannot be reached" in host.error("etcd")
        assert written(host)["connected"] is False
        host.kernel.drop(*host.kernel.entries_on(VTEP)[:1])
        yield 100
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert host.status()["repaired"] == 1
        host.etcd.put_lease(lease(4))
        host.etcd.away = False
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        assert host.status()["errors"] == []
        assert written(host)["connected"] is True

    loop.run(script())


def test_it_tries_less_and_less_often(loop: Loop) -> None:
    host = loop.host
    tried: list[float] = []
    find = host.registry.find

    def count() -> t.Any:
        tried.append(host.clock.now)
        return find()

    host.registry.find = count  # type: ignore[method-assign]
    host.etcd.away = True

    def script() -> Script:
        yield 300

    loop.run(script())
    pauses = [after - before for before, after in zip(tried, tried[1:])]
    assert max(pauses) <= 10.1
    assert sum(pauses[:5]) < 4
    assert 30 < len(tried) < 150


def test_a_start_without_etcd_goes_on_from_the_state(loop: Loop) -> None:
    host = loop.host
    host.list()
    host.agent.save()
    host.boot()
    host.etcd.away = True

    def script() -> Script:
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert [each for each in loop.notified if each.startswith("READY=1\nSTATUS=")]
        host.etcd.delete_lease(lease(1))
        host.etcd.away = False
        yield 30
        assert host.kernel.tunnels() == tunnels(2, 3)

    loop.run(script())


def test_a_start_without_etcd_and_without_a_state_waits(loop: Loop) -> None:
    host = loop.host
    host.etcd.away = True

    def script() -> Script:
        assert host.kernel.batches == []
        assert written(host)["errors"][0]["what"] == "etcd"
        host.etcd.away = False
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert host.status()["errors"] == []

    loop.run(script())


def test_a_state_of_another_address_waits_for_etcd(loop: Loop) -> None:
    host = loop.host
    host.list()
    host.agent.save()
    host.boot()
    host.kernel.move("172.21.0.11")
    host.etcd.away = True

    def script() -> Script:
        assert host.kernel.batches == []
        assert "nothing is restored" in host.error("location")
        host.etcd.away = False
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert host.error("location") == ""

    loop.run(script())


def test_a_member_that_does_not_answer_is_left_without_a_listing(loop: Loop) -> None:
    """All hosts would see that at once, and their listings would make it last."""
    host = loop.host

    def script() -> Script:
        yield 30
        assert written(host)["connected"] is True
        host.etcd.silent = True
        for _second in range(20):
            yield 1
            if not written(host)["connected"]:
                break
        assert written(host)["connected"] is False
        assert host.error("etcd") == ""
        while not host.etcd.avoided:
            yield 0.1
        # It goes on at another member.
        assert "no answer in time" in host.error("etcd")
        host.etcd.put_lease(lease(4))
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        assert host.listings == 1
        assert host.status()["errors"] == []
        assert written(host)["connected"] is True

    loop.run(script())


def test_a_watch_that_does_not_tell_all_is_replaced(loop: Loop) -> None:
    host = loop.host

    def script() -> Script:
        host.etcd.holds_back = True
        host.etcd.put_lease(lease(4))
        yield 30
        assert host.logged("going on at another member")
        assert len(host.etcd.watches) > 1
        host.etcd.holds_back = False
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        assert host.listings == 1

    loop.run(script())


def test_an_etcd_that_went_back_is_listed(loop: Loop) -> None:
    """It was restored from a backup while the watch was cut."""
    host = loop.host
    backup = host.etcd.revision

    def script() -> Script:
        host.etcd.put_lease(lease(4))
        yield
        host.etcd.restore(backup)
        host.etcd.watches[-1].end = EtcdNoQuorum("no leader")
        yield 5
        assert host.listings >= 2
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4), "4 is retained"
        assert host.status()["retained"] == 1

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
        assert written(host)["public_ip"] == "172.21.0.11"

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
