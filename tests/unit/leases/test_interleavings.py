# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two controllers at the same time, on an etcd in memory, in any order of their calls.

These stand beside tests/integration/leases/test_races.py, where many real clients race on a real
etcd, in whatever order it happens.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import EtcdClient
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    DuplicatePublicIP,
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases import (
    acquire,
    release,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.leases.network import Network, guards_of, host
from tests.unit.leases.turns import interleave

Task = t.Callable[[EtcdClient], object]
# Whose turn it is, for as long as it matters: both have ended after some twenty calls.
orders = st.lists(st.booleans(), max_size=30)
wishes = st.sampled_from([Wish(prefer=each) for each in (None, "10.5.1.0/24", "10.5.2.0/24")])
ttls = st.sampled_from([0, 60])


def chooser(order: list[bool]) -> t.Callable[[int], int]:
    """Takes turns as drawn, and then one after the other."""
    left = iter(order)
    return lambda count: int(next(left, False)) % count


def acquiring(network: Network, who: Host, wish: Wish, ttl: int = 0) -> Task:
    return lambda client: acquire.acquire(network.registry(client), who, wish, ttl)


def releasing(network: Network, who: Host) -> Task:
    return lambda client: release.release(network.registry(client), who.host_id)


def run(network: Network, order: list[bool], *tasks: Task) -> list[t.Any]:
    found = interleave(network.etcd, tasks, chooser(order))
    network.check_history()
    return found


def check_subnets(network: Network) -> None:
    """No two leases have an address in common."""
    subnets = [ipaddress.ip_network(lease.subnet) for lease in network.leases]
    for index, subnet in enumerate(subnets):
        assert not any(subnet.overlaps(other) for other in subnets[:index])


def test_each_call_waits_for_its_turn() -> None:
    """Else the other tests here would try one order only."""
    seen: list[str] = []

    def task(name: str) -> Task:
        def calls(client: EtcdClient) -> None:
            for number in range(3):
                client.get(str(number))
                seen.append(name)

        return calls

    for order, expected in [([], "aaabbb"), ([True] * 3, "bbbaaa"), ([False, True] * 3, "ababab")]:
        seen.clear()
        # The first turn takes a task to its first call.
        interleave(Network().etcd, [task("a"), task("b")], chooser([False, True, *order]))
        assert "".join(seen) == expected


@given(orders, wishes, wishes, ttls, ttls, st.sampled_from([2, 3, 200]))
def test_two_hosts_get_distinct_subnets(
    order: list[bool], one: Wish, two: Wish, ttl_one: int, ttl_two: int, size: int
) -> None:
    network = Network(size)
    done = run(
        network,
        order,
        acquiring(network, host(1), one, ttl_one),
        acquiring(network, host(2), two, ttl_two),
    )
    leases = [each.decision.after for each in done]
    assert sorted(network.leases) == sorted(leases)
    check_subnets(network)
    assert network.guards == {**guards_of(leases[0]), **guards_of(leases[1])}
    assert sorted(network.etcd.etcd_leases.values()) == sorted(filter(None, [ttl_one, ttl_two]))


@given(orders, wishes, wishes, ttls)
def test_two_controllers_get_one_lease_for_one_host(
    order: list[bool], one: Wish, two: Wish, ttl: int
) -> None:
    network = Network()
    done = run(
        network,
        order,
        acquiring(network, host(1), one, ttl),
        acquiring(network, host(1), two, ttl),
    )
    (lease,) = network.leases
    assert [each.decision.after for each in done] == [lease, lease]
    assert sorted(each.changed for each in done) == [False, True]
    assert network.guards == guards_of(lease)
    assert list(network.etcd.etcd_leases.values()) == ([ttl] if ttl else [])


@given(orders, wishes, wishes)
def test_of_two_hosts_with_one_address_one_gets_a_lease(
    order: list[bool], one: Wish, two: Wish
) -> None:
    network = Network()
    other = host(2, public_ip=host(1).public_ip)
    done = run(network, order, acquiring(network, host(1), one), acquiring(network, other, two))
    (lease,) = network.leases
    assert [type(each) for each in done if isinstance(each, Exception)] == [DuplicatePublicIP]
    assert lease in [each.decision.after for each in done if not isinstance(each, Exception)]


@given(orders, st.booleans())
def test_an_established_host_has_a_lease_at_every_moment(order: list[bool], both: bool) -> None:
    """Also while two controllers move it to different subnets, or only one of them does."""
    network = Network()
    network.acquire(host(1), Wish(subnet="10.5.72.0/24"))
    moves = [Wish(subnet="10.5.%d.0/24" % number, move=True) for number in (8, 9)]
    tasks = [acquiring(network, host(1), moves[0])]
    tasks.append(acquiring(network, host(1), moves[1] if both else Wish()))

    def look() -> None:
        assert network.leases, "a host without a lease"

    interleave(network.etcd, tasks, chooser(order), look)
    network.check_history()
    # Whatever the two have left, the next run makes it one lease.
    done = network.acquire(host(1), moves[0])
    assert network.leases == (done.decision.after,)
    assert done.decision.after.subnet == "10.5.8.0/24"
    assert network.guards == guards_of(done.decision.after)


@given(orders)
def test_a_release_and_an_acquisition_leave_one_lease_or_none(order: list[bool]) -> None:
    network = Network()
    old = network.acquire(host(1)).decision.after
    released, acquired = run(
        network,
        order,
        releasing(network, host(1)),
        acquiring(network, host(1, hostname="renamed"), Wish()),
    )
    assert acquired.decision.after.subnet == old.subnet
    assert network.leases in ((), (acquired.decision.after,))
    assert network.leases or released
    check_subnets(network)
    assert not network.guards or network.guards == guards_of(acquired.decision.after)
    assert bool(network.guards) == bool(network.leases)
