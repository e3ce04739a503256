# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Acquiring leases, on an etcd in memory.

These stand beside the whole runs in tests/integration/leases, which have a real etcd. Here any
writer can be the faster one, at a chosen moment.
"""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdUnreachable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.allocation import (
    SubnetExhausted,
    SubnetUnavailable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Decision,
    DuplicateHostID,
    DuplicatePublicIP,
    LeaseWouldMove,
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases import (
    acquire,
    transactions,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    NoNetwork,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.snapshot import (
    Planned,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.leases.conftest import Clock
from tests.unit.leases.network import GUARDS, PREFIX, SUBNETS, Network, guards_of, host

GARBAGE = st.sampled_from(["", "{", "null", "[1]", '{"PublicIP":"10.0.0.300"}'])


# --- a host without a lease ---------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [0, 60])
def test_a_host_gets_a_free_subnet_with_its_guards_in_one_transaction(
    network: Network, ttl: int
) -> None:
    done = network.acquire(host(1), ttl=ttl)
    lease = done.decision.after
    assert (done.changed, done.transactions, done.decision.before) == (True, 1, None)
    assert network.leases == (lease,)
    assert network.guards == guards_of(lease)
    assert network.etcd.history[1:] == [
        (
            SUBNETS + lease.key_name,
            GUARDS + "hosts/" + lease.host_id,
            GUARDS + "addresses/" + lease.public_ip,
        )
    ]
    # With a TTL all three go together.
    assert {
        entry.lease for key, entry in network.etcd.keys.items() if key != PREFIX + "/config"
    } == {lease.etcd_lease}
    assert list(network.etcd.etcd_leases.values()) == ([ttl] if ttl else [])


def test_a_host_that_has_its_lease_writes_nothing(network: Network) -> None:
    for ttl in (0, 60):
        lease = network.acquire(host(1), ttl=ttl).decision.after
        writes = len(network.etcd.history)
        again = network.acquire(host(1), ttl=ttl)
        assert (again.changed, again.transactions) == (False, 0)
        assert again.decision.before == again.decision.after == lease
        assert len(network.etcd.history) == writes


def test_the_lease_of_a_flanneld_with_this_address_is_adopted(network: Network) -> None:
    network.flanneld("10.5.72.0-24", host(1).public_ip)
    network.flanneld("10.5.73.0-24", host(2).public_ip)
    done = network.acquire(host(1))
    assert done.decision.after.subnet == "10.5.72.0/24"
    assert done.decision.before is not None
    assert done.decision.before.host_id == ""
    assert [lease.host_id for lease in network.leases] == [host(1).host_id, ""]
    # It stays as old as it was, and who took it over has guards.
    assert done.decision.after.create_revision == done.decision.before.create_revision
    assert network.guards == guards_of(done.decision.after)


def test_a_network_without_a_free_subnet_leases_none() -> None:
    network = Network(size=2)
    network.acquire(host(1))
    network.put("10.5.1.0-24" if "10.5.2" in network.leases[0].subnet else "10.5.2.0-24", "garbage")
    before = dict(network.etcd.keys)
    with pytest.raises(SubnetExhausted):
        network.acquire(host(2), ttl=60)
    assert network.etcd.keys == before
    assert network.etcd.etcd_leases == {}


def test_without_a_usable_config_nothing_is_leased(network: Network) -> None:
    network.etcd.put(PREFIX + "/config", '{"Network":"10.5.0.0/31"}')
    with pytest.raises(NoNetwork, match="/config is not usable"):
        network.acquire(host(1))
    network.etcd.delete(PREFIX + "/config")
    with pytest.raises(NoNetwork, match="write one with flannel_network"):
        network.acquire(host(1))
    assert network.etcd.keys == {}


# --- an established host ------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(0, 200), GARBAGE, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_an_established_host_stays_whatever_garbage_there_is(
    garbage: dict[int, str], before: bool, renamed: bool
) -> None:
    network = Network()
    network.acquire(host(1), Wish(subnet="10.5.72.0/24"))
    lease = network.leases[0]
    for number, value in garbage.items():
        if number != 72:
            network.put("10.5.%d.0-24" % number, value)
    if before:
        # Of another length, and over its own subnet.
        network.put("10.5.0.0-17", "garbage")
    who = host(1, hostname="renamed") if renamed else host(1)
    done = network.acquire(who)
    assert done.changed is renamed
    assert done.decision.after.subnet == lease.subnet
    assert [each.subnet for each in network.leases if each.host_id] == [lease.subnet]


def test_an_established_host_moves_on_request_only(network: Network) -> None:
    old = network.acquire(host(1), Wish(subnet="10.5.72.0/24")).decision.after
    for wish in (Wish(subnet="10.5.9.0/24"), Wish(prefer="10.5.9.0/24"), Wish(move=True)):
        if wish.subnet:
            with pytest.raises(LeaseWouldMove, match="set move"):
                network.acquire(host(1), wish)
        else:
            assert not network.acquire(host(1), wish).changed
        assert network.leases == (old,)
    done = network.acquire(host(1), Wish(subnet="10.5.9.0/24", move=True))
    assert (done.changed, done.decision.before, done.decision.after.subnet) == (
        True,
        old,
        "10.5.9.0/24",
    )
    assert network.leases == (done.decision.after,)
    assert network.guards == guards_of(done.decision.after)
    # The new one was written before the old one was removed.
    assert [key for changed in network.etcd.history[2:] for key in changed if SUBNETS in key] == [
        SUBNETS + "10.5.9.0-24",
        SUBNETS + "10.5.72.0-24",
    ]
    network.check_history()


def test_a_move_that_was_cut_short_is_completed(network: Network) -> None:
    old = network.acquire(host(1), Wish(subnet="10.5.72.0/24")).decision.after

    def cut() -> None:
        raise EtcdUnreachable("connection refused.")

    wish = Wish(subnet="10.5.9.0/24", move=True)
    network.etcd.before_write = [lambda: None, cut]
    with pytest.raises(EtcdUnreachable):
        network.acquire(host(1), wish)
    assert [lease.subnet for lease in network.leases] == ["10.5.72.0/24", "10.5.9.0/24"]
    done = network.acquire(host(1), wish)
    assert done.changed
    assert done.decision.surplus == (old,)
    assert [lease.subnet for lease in network.leases] == ["10.5.9.0/24"]


def test_a_host_keeps_its_subnet_when_its_address_changes(network: Network) -> None:
    old = network.acquire(host(1)).decision.after
    new = network.acquire(host(1, public_ip="198.51.100.7")).decision.after
    assert (new.subnet, new.create_revision) == (old.subnet, old.create_revision)
    # The guard of the former address is gone: another host may have that.
    assert network.guards == guards_of(new)


def test_the_guard_of_a_former_address_stays_if_another_host_has_taken_that_up(
    network: Network,
) -> None:
    former = host(1).public_ip
    network.acquire(host(1))
    other = host(2, public_ip=former)
    network.etcd.before_write = [lambda: None, lambda: network.acquire(other)]
    new = network.acquire(host(1, public_ip="198.51.100.7")).decision.after
    (lease,) = (each for each in network.leases if each.host_id == other.host_id)
    assert network.guards == {**guards_of(new), **guards_of(lease)}


def test_a_lease_changes_between_permanent_and_with_a_ttl(network: Network) -> None:
    subnet = network.acquire(host(1)).decision.after.subnet
    for ttl in (60, 120, 0):
        done = network.acquire(host(1), ttl=ttl)
        assert (done.changed, done.decision.after.subnet) == (True, subnet)
        # None of before is left.
        assert list(network.etcd.etcd_leases.values()) == ([ttl] if ttl else [])


# --- one identity, one address ------------------------------------------------------------------


def test_two_hosts_do_not_share_an_identity_or_an_address(network: Network) -> None:
    network.acquire(host(1))
    with pytest.raises(DuplicateHostID, match="a clone of the other"):
        network.acquire(host(1, hostname="clone", public_ip="192.0.2.9"))
    with pytest.raises(DuplicatePublicIP, match="is also that of"):
        network.acquire(host(2, public_ip=host(1).public_ip))
    assert len(network.leases) == 1


def test_a_takeover_leaves_one_lease_and_its_guards(network: Network) -> None:
    old = network.acquire(host(1)).decision.after
    new = network.acquire(host(2, public_ip=old.public_ip), Wish(takeover=True)).decision.after
    assert new.subnet == old.subnet
    assert network.leases == (new,)
    assert network.guards == guards_of(new)


# --- others at the same time --------------------------------------------------------------------


def test_another_host_takes_the_subnet_first(network: Network) -> None:
    wish = Wish(prefer="10.5.7.0/24")
    network.etcd.before_write = [lambda: network.acquire(host(2), wish)]
    done = network.acquire(host(1), wish)
    assert done.transactions == 2
    assert done.decision.after.subnet != "10.5.7.0/24"
    assert {lease.host_id for lease in network.leases} == {host(1).host_id, host(2).host_id}


def test_another_controller_acquires_another_subnet_for_this_host(network: Network) -> None:
    """The guard of the host is what makes the first transaction fail: the subnets differ."""
    network.etcd.before_write = [lambda: network.acquire(host(1), Wish(prefer="10.5.7.0/24"))]
    done = network.acquire(host(1), Wish(prefer="10.5.8.0/24"), ttl=0)
    assert (done.changed, done.transactions) == (False, 1)
    assert [lease.subnet for lease in network.leases] == ["10.5.7.0/24"]


def test_another_host_records_this_address_first(network: Network) -> None:
    """The guard of the address is what makes the first transaction fail: the identities differ."""
    other = host(2, public_ip=host(1).public_ip)
    network.etcd.before_write = [lambda: network.acquire(other)]
    with pytest.raises(DuplicatePublicIP):
        network.acquire(host(1), ttl=60)
    assert [lease.host_id for lease in network.leases] == [other.host_id]
    # Nothing is left of what the first attempt was granted.
    assert network.etcd.etcd_leases == {}


def test_the_config_changes_meanwhile(network: Network) -> None:
    network.etcd.before_write = [lambda: network.configure(3)]
    done = network.acquire(host(1), Wish(prefer="10.5.72.0/24"))
    assert done.transactions == 2
    assert done.decision.after.subnet in ("10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24")
    assert done.config.ipv4.size == 3


def test_a_guard_that_is_left_over_is_no_obstacle(network: Network) -> None:
    network.etcd.put(GUARDS + "hosts/" + host(1).host_id, "10.5.99.0-24")
    network.etcd.put(GUARDS + "addresses/" + host(1).public_ip, "nobody's")
    done = network.acquire(host(1))
    assert done.transactions == 1
    assert network.guards == guards_of(done.decision.after)


def test_an_acquisition_gives_up_after_a_minute_of_lost_races(
    network: Network, clock: Clock
) -> None:
    guard = GUARDS + "hosts/" + host(1).host_id

    def interfere() -> None:
        network.etcd.put(guard, "somebody else's")
        network.etcd.before_write = [interfere]

    network.etcd.before_write = [interfere]
    with pytest.raises(transactions.LeaseContended, match=r"host1 \(192.0.2.1\): other writers"):
        network.acquire(host(1), ttl=60)
    assert 60 < clock.now < 62
    assert network.leases == ()
    # None of those that were granted for an attempt is left.
    assert network.etcd.etcd_leases == {}


def test_who_wants_an_own_subnet_that_was_just_taken_is_told(network: Network) -> None:
    wish = Wish(subnet="10.5.7.0/24")
    network.etcd.before_write = [lambda: network.acquire(host(2), wish)]
    with pytest.raises(SubnetUnavailable):
        network.acquire(host(1), wish)


# --- what may stop it ---------------------------------------------------------------------------


def test_what_the_host_refuses_is_not_written(network: Network) -> None:
    asked: list[tuple[Decision, NetworkConfig]] = []

    def refuse(decision: Decision, config: NetworkConfig) -> None:
        asked.append((decision, config))
        raise FlatnetError("not here")

    before = dict(network.etcd.keys)
    with pytest.raises(FlatnetError, match="not here"):
        acquire.acquire(network.registry(), host(1), Wish(), 60, refuse)
    with pytest.raises(FlatnetError, match="not here"):
        acquire.preview(network.registry(), host(1), Wish(), 60, Planned(), refuse)
    assert network.etcd.keys == before
    assert network.etcd.etcd_leases == {}
    (decision, config), preview = asked
    assert preview == (decision, config)
    assert decision.after.public_ip == host(1).public_ip


def test_the_host_goes_by_its_own_config(network: Network) -> None:
    """flatnet-sync does, while the playbook has not carried out another one."""
    own = config_from_dict({"Network": "10.9.0.0/16", "Backend": {"Type": "host-gw"}})
    done = acquire.acquire(network.registry(), host(1), Wish(), under=own)
    assert done.config == own
    assert done.decision.after.subnet.startswith("10.9.")
    assert done.decision.after.backend_type == "host-gw"


def test_a_preview_says_what_will_be_and_writes_nothing(network: Network) -> None:
    registry = network.registry()
    before = dict(network.etcd.keys)
    seen = acquire.preview(registry, host(1), Wish(), 60, Planned())
    assert (seen.changed, seen.transactions) == (True, 0)
    assert network.etcd.keys == before
    done = network.acquire(host(1), ttl=60)
    assert done.decision.after.same_content(seen.decision.after)
    assert not acquire.preview(registry, host(1), Wish(), 60, Planned()).changed
    for ttl in (0, 61):
        assert acquire.preview(registry, host(1), Wish(), ttl, Planned()).changed
    # What earlier tasks would have written counts as written.
    planned = Planned(None, (done.decision.after._replace(host_id="x", public_ip="192.0.2.99"),))
    other = acquire.preview(registry, host(2), Wish(prefer=done.decision.after.subnet), 0, planned)
    assert other.decision.after.subnet != done.decision.after.subnet
