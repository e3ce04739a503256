# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service's loop while etcd comes and goes. See test_service.py."""

from __future__ import annotations

import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdNoQuorum,
    EtcdUnreachable,
)

from tests.unit.sync.fake_kernel import VTEP
from tests.unit.sync.fake_loop import Loop, Script
from tests.unit.sync.fakes import OWN, VXLAN, lease, tunnels

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
        assert host.logged("compacted") == 0
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
        assert host.written()["connected"] is False
        host.kernel.drop(*host.kernel.entries_on(VTEP)[:1])
        yield 100
        assert host.kernel.tunnels() == tunnels(1, 2, 3)
        assert host.status()["repaired"] == 1
        host.etcd.put_lease(lease(4))
        host.etcd.away = False
        yield 30
        assert host.kernel.tunnels() == tunnels(1, 2, 3, 4)
        assert host.status()["errors"] == []
        assert host.written()["connected"] is True
        # The next time, it is back at once again.
        host.etcd.watches[-1].end = EtcdUnreachable("the member ended the connection")
        yield 0.5
        assert not host.etcd.watches[-1].closed

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
        assert host.written()["errors"][0]["what"] == "etcd"
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
        assert host.written()["connected"] is True
        host.etcd.silent = True
        for _second in range(20):
            yield 1
            if not host.written()["connected"]:
                break
        assert host.written()["connected"] is False
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
        assert host.written()["connected"] is True

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
