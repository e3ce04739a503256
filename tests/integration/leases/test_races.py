# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease registry on a real etcd: many controllers at once, some of them killed or cut off."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.allocation import (
    SubnetExhausted,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    DuplicatePublicIP,
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.acquire import Outcome

from tests.integration.etcd_server import EtcdServers
from tests.integration.proxy import Proxy
from tests.integration.registry import FORK, Fleet, check_history, child, host, race

# 64 subnets, all of them to be had; 4; 256.
POOL64 = '{"Network":"10.5.0.0/18","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}'
POOL4 = '{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}'
WIDE = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    with EtcdServers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture
def fleet(server: EtcdServers) -> Fleet:
    return Fleet(server.urls, "/network%d" % next(_NUMBERS))


def leased(results: list[object]) -> list[str]:
    """The subnets of results, all of which must be leases."""
    failed = [each for each in results if not isinstance(each, Outcome)]
    assert not failed, "%d failed, the first: %r" % (len(failed), failed[0])
    return [each.decision.after.subnet for each in results]  # type: ignore[attr-defined]


@pytest.mark.matrix
@pytest.mark.parametrize("ttl", [0, 600])
def test_64_at_once_get_64_subnets_and_the_65th_gets_the_numbers(
    fleet: Fleet, server: EtcdServers, ttl: int
) -> None:
    fleet.configure(POOL64)
    before = server.ctl("lease", "list").splitlines()[1:]
    jobs = [functools.partial(fleet.acquire, host(n), ttl=ttl) for n in range(64)]
    results = race(jobs)
    subnets = leased(results)
    assert len(set(subnets)) == 64
    assert sorted(subnets) == sorted(lease.subnet for lease in fleet.leases())
    spent = [each.transactions for each in results]  # type: ignore[union-attr]
    print("transactions: %d for 64 leases, at most %d for one" % (sum(spent), max(spent)))
    assert check_history(fleet) == 64
    # Who lost a race gave its etcd lease back.
    leases = set(server.ctl("lease", "list").splitlines()[1:]) - set(before)
    assert len(leases) == (64 if ttl else 0)

    with pytest.raises(SubnetExhausted) as caught:
        fleet.acquire(host(64))
    for part in ("no free /24 left in 10.5.0.0/18", "64 subnets", "64 of them taken by 64 leases"):
        assert part in str(caught.value)
    # One gives up, and the 65th gets that very subnet.
    (gone,) = fleet.release(host(17))
    assert fleet.acquire(host(64)).decision.after.subnet == gone.subnet


def test_more_hosts_than_subnets_at_once(fleet: Fleet) -> None:
    fleet.configure(POOL4)
    results = race([functools.partial(fleet.acquire, host(n)) for n in range(12)])
    lucky = [each for each in results if isinstance(each, Outcome)]
    assert len(set(leased(lucky))) == len(lucky) == 4
    assert {type(each) for each in results if each not in lucky} == {SubnetExhausted}
    assert check_history(fleet) == 4


@pytest.mark.matrix
def test_two_controllers_for_one_host_make_one_lease(fleet: Fleet) -> None:
    fleet.configure(WIDE)
    for number in range(15):
        # Of eight, some run before others: first choices differ when a wish differs.
        wishes = [Wish(), Wish(prefer="10.5.%d.0/24" % (100 + number))]
        count = 8 if number % 5 == 0 else 2
        jobs = [
            functools.partial(fleet.acquire, host(number), wishes[index % 2])
            for index in range(count)
        ]
        subnets = leased(race(jobs))
        assert len(set(subnets)) == 1
        assert len(fleet.leases()) == number + 1
    # Not even for a moment.
    assert check_history(fleet) == 15


def test_one_host_while_others_come_and_go(fleet: Fleet) -> None:
    """With four subnets, whichever is free changes all the time."""
    fleet.configure(POOL4)
    stop = FORK.Event()

    def come_and_go(number: int) -> None:
        while not stop.is_set():
            fleet.acquire(host(number))
            fleet.release(host(number))

    with (
        child(functools.partial(come_and_go, 101)) as one,
        child(functools.partial(come_and_go, 102)) as two,
    ):
        for _round in range(12):
            subnets = leased(race([functools.partial(fleet.acquire, host(1)) for _n in range(2)]))
            assert len(set(subnets)) == 1
            mine = [lease for lease in fleet.leases() if lease.host_id == host(1).host_id]
            assert [lease.subnet for lease in mine] == subnets[:1]
            fleet.release(host(1))
        stop.set()
        for each in (one, two):
            each.join(20)
            assert each.exitcode == 0
    assert check_history(fleet) > 24
    assert list(fleet.keys()) == ["config"]


def test_two_hosts_with_one_address_get_one_lease_and_one_refusal(fleet: Fleet) -> None:
    fleet.configure(WIDE)
    for number in range(10):
        rivals = [host(2 * number), host(2 * number + 1, public_ip=host(2 * number).public_ip)]
        results = race([functools.partial(fleet.acquire, each) for each in rivals])
        lucky = [each for each in results if isinstance(each, Outcome)]
        assert len(lucky) == 1, results
        (error,) = (each for each in results if each not in lucky)
        assert isinstance(error, DuplicatePublicIP)
        assert lucky[0].decision.after.host_id in str(error)
    assert len(fleet.leases()) == 10
    assert check_history(fleet) == 10


def test_acquire_against_release_ends_with_one_lease_or_none(fleet: Fleet) -> None:
    fleet.configure(WIDE)
    for number in range(10):
        fleet.acquire(host(number))
        kept = len(fleet.leases()) - 1
        race([functools.partial(job, host(number)) for job in (fleet.acquire, fleet.release)])
        mine = len(fleet.leases()) - kept
        assert mine in (0, 1)
        # An acquisition that saw the lease before it was released said so; the next one repairs.
        fleet.acquire(host(number))
        assert len(fleet.leases()) == kept + 1
    assert len(fleet.guards()) == 20
    check_history(fleet)


def test_killed_at_any_moment_leaves_what_the_next_run_repairs(fleet: Fleet) -> None:
    """SIGKILL while a host leases, changes its address, moves, adopts, renews and releases."""
    fleet.configure(WIDE)
    dice = random.Random(7)

    def forever(number: int) -> None:
        for turn in itertools.count():
            who = host(number, public_ip="198.51.100.%d" % (1 + (turn + number) % 250))
            wish = Wish(subnet="10.5.%d.0/24" % (10 + turn % 3), move=True)
            fleet.acquire(who, wish, ttl=turn % 2 * 600)
            if turn % 4 == 3:
                fleet.release(who)

    survived = 0
    for number in range(100):
        if number >= 25 and survived >= 8:
            break
        with child(functools.partial(forever, number)) as victim:
            time.sleep(dice.uniform(0.005, 0.12))
            victim.kill()
            victim.join()
            assert victim.exitcode == -9
        survived += len(fleet.leases())
        done = fleet.acquire(host(number))
        (lease,) = fleet.leases()
        assert (lease.host_id, lease.public_ip) == (host(number).host_id, host(number).public_ip)
        assert lease == done.decision.after
        assert not fleet.acquire(host(number)).changed
        fleet.release(host(number))
        assert fleet.leases() == ()
    assert survived >= 8, "killed too early to tell"
    check_history(fleet, moves=True)


# --- what only shows when something happens between two requests ----------------------------------


@pytest.mark.matrix
def test_a_lost_race_is_decided_anew(fleet: Fleet) -> None:
    """Another host takes the very subnet, between our listing and our write."""
    fleet.configure(WIDE)
    wish = Wish(prefer="10.5.7.0/24")
    with Proxy(fleet.urls[0]) as proxy:
        proxy.before_write = [lambda: fleet.acquire(host(2), wish)]
        done = fleet.acquire(host(1), wish, urls=[proxy.url])
    assert done.transactions == 2
    assert [done.decision.after.subnet] == [
        lease.subnet for lease in fleet.leases() if lease.host_id == host(1).host_id
    ]
    assert {lease.host_id for lease in fleet.leases() if lease.subnet == "10.5.7.0/24"} == {
        host(2).host_id
    }
    assert check_history(fleet) == 2


def test_what_another_controller_did_meanwhile_counts(fleet: Fleet) -> None:
    fleet.configure(WIDE)
    with Proxy(fleet.urls[0]) as proxy:
        # The same host with another choice of subnet, so that the keys do not meet.
        proxy.before_write = [lambda: fleet.acquire(host(1), Wish(prefer="10.5.7.0/24"))]
        assert fleet.acquire(host(1), urls=[proxy.url]).decision.after.subnet == "10.5.7.0/24"
        proxy.before_write = [lambda: fleet.acquire(host(3, public_ip=host(2).public_ip))]
        with pytest.raises(DuplicatePublicIP):
            fleet.acquire(host(2), urls=[proxy.url])
        # The network moves on.
        proxy.before_write = [lambda: fleet.configure(WIDE.replace("10.5.", "10.6."))]
        done = fleet.acquire(host(4), urls=[proxy.url])
        assert done.decision.after.subnet.startswith("10.6.")
    assert check_history(fleet) == 3


@pytest.mark.matrix
@pytest.mark.parametrize("ttl", [0, 600])
@pytest.mark.parametrize("answers", [1, 2])
def test_a_write_whose_answer_is_lost_is_not_made_twice(
    fleet: Fleet, ttl: int, answers: int
) -> None:
    """The connection ends after the transaction was passed on: it was done, and nobody says so."""
    fleet.configure(WIDE)
    with Proxy(fleet.urls[0]) as proxy:
        proxy.lose_answers = answers
        done = fleet.acquire(host(1), ttl=ttl, urls=[proxy.url])
        assert proxy.lose_answers == answers - 1
        assert done.changed
        assert fleet.leases() == (done.decision.after,)
        assert len(fleet.guards()) == 2
        # A new address: the lease, then its old guard; the answer to either is lost.
        proxy.lose_answers = answers
        moved = host(1, public_ip="198.51.100.7")
        assert fleet.acquire(moved, ttl=ttl, urls=[proxy.url]).changed
        assert [lease.public_ip for lease in fleet.leases()] == ["198.51.100.7"]
        proxy.lose_answers = answers
        wish = Wish(subnet="10.5.200.0/24", move=True)
        assert fleet.acquire(moved, wish, ttl=ttl, urls=[proxy.url]).changed
        assert [lease.subnet for lease in fleet.leases()] == ["10.5.200.0/24"]
        proxy.lose_answers = 1
        released = fleet.release(moved, urls=[proxy.url])
        assert [lease.subnet for lease in released] == ["10.5.200.0/24"]
    assert fleet.leases() == ()
    assert check_history(fleet, moves=True) == 3


def test_a_request_that_never_arrived_is_made_again(fleet: Fleet) -> None:
    fleet.configure(WIDE)
    with Proxy(fleet.urls[0]) as proxy:
        proxy.lose_requests = 3
        done = fleet.acquire(host(1), urls=[proxy.url])
    assert (done.changed, done.transactions) == (True, 4)
    assert check_history(fleet) == 1


def test_a_leader_killed_under_a_stream_of_acquisitions(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with EtcdServers(tmp_path_factory.mktemp("cluster"), members=3) as cluster:
        fleet = Fleet(cluster.urls, "/network", timeout=2)
        fleet.configure(WIDE)
        leader = cluster.leader()

        def kill() -> None:
            while len(fleet.leases()) < 20:
                time.sleep(0.02)
            leader.kill()

        killer = threading.Thread(target=kill)

        def stream(first: int) -> list[str]:
            # Each stream begins at another member.
            urls = cluster.urls[first % 3 :] + cluster.urls[: first % 3]
            return [
                fleet.acquire(host(number), urls=urls).decision.after.subnet
                for number in range(first * 12, first * 12 + 12)
            ]

        killer.start()
        results = race([functools.partial(stream, first) for first in range(6)])
        killer.join()
        assert leader.process is None
        subnets = [subnet for each in results for subnet in each]  # type: ignore[union-attr]
        assert len(set(subnets)) == 72
        assert sorted(lease.subnet for lease in fleet.leases()) == sorted(subnets)
        check_history(fleet)
