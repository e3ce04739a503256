# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync watch and the host's own lease: lost, taken, with a lifetime, at another address."""

from __future__ import annotations

import json
import shutil
import time
import typing as t

import pytest

from tests.integration.overlay import PREFIX
from tests.integration.programs import (
    NETWORK,
    SUBNETS,
    Peer,
    Pinging,
    Program,
    Programs,
    peer,
)
from tests.lab.waiting import wait

# etcd gives no less than about one and a half times its election timeout.
TTL = 6
# Enough for a third of it to be longer than a start takes, on a machine however busy.
LONG_TTL = 45


@pytest.fixture(scope="module")
def fleet(programs: Programs) -> Programs:
    programs.started()
    programs.join(*map(peer, range(100, 110)))
    programs.settle()
    programs.add_pods()
    assert programs.pods_answer()
    return programs


@pytest.fixture
def program(fleet: Programs) -> t.Iterator[Program]:
    first = fleet.all[0]
    fleet.settle()
    yield first
    if not first.running:
        first.start()
    fleet.settle()
    assert fleet.pods_answer()


def holder(fleet: Programs, name: str) -> str:
    return t.cast(str, fleet.leases().get(name, {}).get("PublicIP", ""))


def test_a_deleted_lease_is_acquired_again(fleet: Programs, program: Program) -> None:
    own, before = program.own, program.dump()
    fleet.delete(own.name)
    wait(lambda: holder(fleet, own.name) == own.public_ip)
    assert len(fleet.leases()) == 13
    assert program.dump() == before
    assert program.own == own
    # And while the service was down.
    program.kill()
    fleet.delete(own.name)
    program.start()
    wait(lambda: holder(fleet, own.name) == own.public_ip)
    assert program.dump() == before


@pytest.mark.parametrize("how", ["garbage", "lease"])
def test_a_taken_subnet_is_reported_and_the_data_plane_kept(
    fleet: Programs, program: Program, how: str
) -> None:
    own, before = program.own, program.dump()
    thief = Peer(own.subnet, "172.21.7.7", "aa:bb:cc:dd:ee:ff")
    fleet.put(own.name, thief.value if how == "lease" else "garbage")
    wait(lambda: own.subnet in program.errors())
    assert "the data plane stays as it is" in program.errors()
    assert "the data plane stays as it is" in program.said()
    assert program.dump() == before
    # Others are still followed, and what is ours repaired; a new start does not change that.
    fleet.join(peer(120))
    wait(lambda: "10.5.120.0/24" in str(program.dump()))
    program.ip("link del flannel.1")
    wait(lambda: "10.5.120.0/24" in str(program.dump()))
    program.kill()
    program.start()
    wait(lambda: own.subnet in program.errors())
    fleet.leave(peer(120))
    program.becomes(before)
    # The thief goes: it is ours again.
    fleet.delete(own.name)
    wait(lambda: holder(fleet, own.name) == own.public_ip)
    wait(lambda: program.told("errors") == [])
    assert program.dump() == before


def test_a_lease_put_back_by_hand_ends_the_error(fleet: Programs, program: Program) -> None:
    own = program.own
    value = fleet.inside(fleet.client.get, SUBNETS + own.name).kvs[0].value.decode()
    fleet.put(own.name, Peer(own.subnet, "172.21.7.7", "aa:bb:cc:dd:ee:ff").value)
    wait(lambda: own.subnet in program.errors())
    fleet.put(own.name, value)
    wait(lambda: program.told("errors") == [])


def test_the_underlays_address_changes_under_it(fleet: Programs, program: Program) -> None:
    own, host = program.own, program.host
    for old, new in (("172.21.0.11", "172.21.0.88"), ("172.21.0.88", "172.21.0.11")):
        program.ip(f"addr del {old}/16 dev eth0")
        program.ip(f"addr add {new}/16 brd + dev eth0")
        program.ip("route replace default via 172.21.0.1")
        wait(lambda new=new: holder(fleet, own.name) == new)
        assert len(fleet.leases()) == 13
        fleet.settle(fleet.all[1:])
        wait(lambda new=new: f"local {new} " in str(program.dump()))
        fleet.reaches(program, [e for e in fleet.peers() if e.name != own.name])
        assert fleet.pods_answer()
        wait(lambda new=new: program.told("public_ip") == new)
        assert program.own == own._replace(public_ip=new)
        wait(lambda: program.told("errors") == [])
    assert host.address == program.own.public_ip


def test_an_etcd_that_was_wiped_costs_nothing(fleet: Programs, program: Program) -> None:
    """Its data is gone, its revision goes back; pods go on as if nothing had happened."""
    owns = [each.own for each in fleet.all]
    before = [each.dump() for each in fleet.all]
    pinging = Pinging(fleet.lab)
    fleet.etcd.kill()
    shutil.rmtree(fleet.etcd.directory / "etcd1")
    fleet.etcd.start()
    # Not even a network any more.
    wait(lambda: "network config" in program.errors())
    assert [each.dump() for each in fleet.all] == before
    assert pinging.lost() == []
    assert pinging.sent > 10
    # What is taken away under it comes back all the same.
    program.ip("route flush proto 110")
    program.becomes(before[0])
    pinging = Pinging(fleet.lab)
    fleet.inside(fleet.client.put, PREFIX + "/config", NETWORK)
    wait(lambda: len(fleet.leases()) == 3)
    assert {name: holder(fleet, name) for name in fleet.leases()} == {
        each.name: each.public_ip for each in owns
    }
    for each in fleet.all:
        wait(lambda each=each: each.told("connected"))
    wait(lambda: program.told("errors") == [])
    # Peers that have not written their leases again, are kept.
    assert [each.dump() for each in fleet.all] == before
    assert pinging.lost() == []
    assert pinging.sent > 100
    # One of them comes back with another subnet: it is the same one no more.
    moved = peer(100)._replace(subnet="10.5.130.0/24")
    fleet.join(moved)
    wait(lambda: "10.5.130.0/24" in str(program.dump()))
    wait(lambda: "10.5.100.0/24" not in str(program.dump()))
    # A service that starts now has forgotten nothing, either.
    fleet.saved(program)
    before[0] = program.dump()
    program.kill()
    program.start()
    wait(lambda: program.told("connected"))
    assert program.dump() == before[0]
    fleet.join(*map(peer, range(100, 110)))
    fleet.leave(moved)


@pytest.fixture(scope="module")
def renewing(programs: Programs, fleet: Programs) -> Programs:  # noqa: ARG001 - after its tests
    """Services whose leases have a lifetime."""
    programs.started(ttl=TTL)
    programs.add_pods()
    return programs


def etcd_leases(programs: Programs) -> dict[str, int]:
    """The etcd leases of keys below ``subnets``."""
    found = programs.inside(programs.client.range_prefix, SUBNETS).kvs
    return {each.key[len(SUBNETS) :]: each.lease for each in found}


def all_etcd_leases(programs: Programs) -> set[int]:
    found = json.loads(programs.etcd.ctl("lease", "list", "--write-out=json"))
    return {int(each["id"]) for each in found.get("leases") or []}


def test_a_lifetime_is_renewed_again_and_again(renewing: Programs) -> None:
    before = etcd_leases(renewing)
    assert len(before) == 3
    assert all(before.values())
    revision = renewing.inside(renewing.client.get, "x").revision
    until = time.monotonic() + 3 * TTL
    while time.monotonic() < until:
        assert etcd_leases(renewing) == before
        time.sleep(0.2)
    assert all_etcd_leases(renewing) == set(before.values())
    # Nothing was written for that.
    assert renewing.inside(renewing.client.get, "x").revision == revision
    for each in renewing.all:
        assert each.told("errors") == []


def test_a_lifetime_that_ends_takes_the_host_off_and_on_again(renewing: Programs) -> None:
    program = renewing.all[0]
    own, before = program.own, program.dump()
    program.kill()
    wait(lambda: own.name not in renewing.leases())
    renewing.settle(renewing.all[1:])
    assert program.dump() == before
    program.start()
    wait(lambda: holder(renewing, own.name) == own.public_ip)
    assert program.dump() == before
    renewing.settle()
    assert renewing.pods_answer()
    assert len(all_etcd_leases(renewing)) == 3


def live_for(programs: Programs, program: Program, ttl: int) -> None:
    """Have the host hold its lease anew, with another lifetime."""
    name = program.own.name
    program.stop()
    program.configure(ttl=ttl)
    programs.delete(name)
    program.start()
    wait(lambda: name in programs.leases())
    programs.settle()
    wait(lambda: all_etcd_leases(programs) == set(etcd_leases(programs).values()))


def test_a_start_renews_at_once(renewing: Programs) -> None:
    """A stop of nearly the whole lifetime: peers notice nothing."""
    program = renewing.all[0]
    live_for(renewing, program, LONG_TTL)
    before = etcd_leases(renewing)
    own = before[program.own.name]

    def left() -> float:
        return renewing.inside(renewing.client.lease_time_to_live, own).ttl

    # No more than until it would be renewed in any case.
    last = 0.8 * LONG_TTL / 3
    program.stop()
    wait(lambda: left() <= last)
    program.start()
    wait(lambda: left() > last)
    assert etcd_leases(renewing) == before
    live_for(renewing, program, TTL)


def test_a_lifetime_outlasts_an_etcd_that_was_away(renewing: Programs) -> None:
    before = etcd_leases(renewing)
    renewing.etcd.kill()
    time.sleep(TTL * 1.5)
    renewing.etcd.start()
    renewing.settle()
    time.sleep(TTL)
    assert set(etcd_leases(renewing)) == set(before)
    assert all_etcd_leases(renewing) == set(etcd_leases(renewing).values())
    assert renewing.pods_answer()
    for each in renewing.all:
        wait(lambda each=each: each.told("errors") == [])


def test_a_lifetime_that_is_given_up_leaves_no_etcd_lease(renewing: Programs) -> None:
    owns = {each.own.name for each in renewing.all}
    for each in renewing.all:
        each.stop()
        each.configure(ttl=0)
        each.start()
        # With its lease written, and what that had before taken back.
        wait(lambda each=each: each.told("connected"))
    wait(lambda: etcd_leases(renewing) == dict.fromkeys(owns, 0))
    assert all_etcd_leases(renewing) == set()
    renewing.settle()
