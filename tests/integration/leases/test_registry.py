# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease registry on a real etcd: a host's lease from the first to the last day."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import (
    vtep_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.allocation import (
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
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.acquire import (
    acquire,
    preview,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    NoNetwork,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.snapshot import (
    Planned,
)

from tests.integration.etcd_server import EtcdServers
from tests.integration.registry import Fleet, check_history, host
from tests.lab.waiting import wait

CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
FLANNELD = (
    '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"4a:be:f1:a6:ee:c3"}}'
)
DAY = 24 * 3600

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    with EtcdServers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture
def fleet(server: EtcdServers) -> Fleet:
    fleet = Fleet(server.urls, "/network%d" % next(_NUMBERS))
    fleet.configure(CONFIG)
    return fleet


def etcd_leases(server: EtcdServers) -> set[int]:
    return {int(line, 16) for line in server.ctl("lease", "list").splitlines()[1:]}


# --- the lease itself ---------------------------------------------------------------------------


@pytest.mark.matrix
def test_a_lease_is_what_flannel_writes_and_our_field_comes_last(fleet: Fleet) -> None:
    done = fleet.acquire(host(1))
    lease = done.decision.after
    assert (done.changed, done.transactions) == (True, 1)
    assert fleet.keys("/subnets") == {
        "subnets/" + lease.subnet.replace("/", "-"): (
            '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":'
            '{"VNI":1,"VtepMAC":"%s"},"Flatnet":{"HostID":"%s","Hostname":"host1"}}'
            % (vtep_mac(host(1).host_id, 1), host(1).host_id)
        )
    }
    assert fleet.guards() == {
        "flatnet/hosts/" + host(1).host_id: lease.key_name,
        "flatnet/addresses/192.0.2.2": lease.key_name,
    }

    again = fleet.acquire(host(1))
    assert (again.changed, again.transactions) == (False, 0)
    assert again.decision.before == again.decision.after == lease
    assert check_history(fleet) == 1
    # However often it is written, it stays as old as it is.
    anew = fleet.acquire(host(1, hostname="renamed")).decision.after
    assert lease.create_revision == lease.mod_revision == anew.create_revision < anew.mod_revision
    assert fleet.leases() == (anew,)


def test_without_a_config_nothing_is_leased(server: EtcdServers) -> None:
    fleet = Fleet(server.urls, "/network%d" % next(_NUMBERS))
    with pytest.raises(NoNetwork, match="write one with flannel_network"):
        fleet.acquire(host(1))
    fleet.configure('{"Network":"10.5.0.0/31"}')
    with pytest.raises(NoNetwork, match="/config is not usable: Network"):
        fleet.acquire(host(1))
    assert list(fleet.keys()) == ["config"]


def test_a_preview_writes_nothing_and_tells_what_will_be(fleet: Fleet) -> None:
    seen = preview(fleet.store, host(1), Wish(), 0, Planned())
    assert list(fleet.keys()) == ["config"]
    done = fleet.acquire(host(1))
    assert seen.changed
    assert seen.decision.after.to_json() == done.decision.after.to_json()
    assert seen.decision.after.subnet == done.decision.after.subnet
    assert not preview(fleet.store, host(1), Wish(), 0, Planned()).changed
    # With a TTL it would be another lease, though of the same content.
    assert preview(fleet.store, host(1), Wish(), 60, Planned()).changed


def test_a_host_that_lost_its_lease_gets_the_same_subnet_again(fleet: Fleet) -> None:
    subnets = {number: fleet.acquire(host(number)).decision.after.subnet for number in range(8)}
    fleet.client.delete_prefix(fleet.prefix + "/subnets/")
    # In another order, and with the guards of before still there.
    for number in reversed(range(8)):
        assert fleet.acquire(host(number)).decision.after.subnet == subnets[number]


# --- lifetime -----------------------------------------------------------------------------------


def test_a_ttl_is_renewed_on_the_same_etcd_lease(fleet: Fleet, server: EtcdServers) -> None:
    before = etcd_leases(server)
    lease = fleet.acquire(host(1), ttl=60).decision.after
    assert etcd_leases(server) - before == {lease.etcd_lease}
    # The guards go when the lease goes.
    known = fleet.client.lease_time_to_live(lease.etcd_lease, keys=True)
    assert (known.granted_ttl, len(known.keys)) == (60, 3)

    wait(lambda: fleet.client.lease_time_to_live(lease.etcd_lease).ttl < 55)
    again = fleet.acquire(host(1), ttl=60)
    assert (again.changed, again.transactions) == (False, 0)
    assert again.decision.after == lease
    assert fleet.client.lease_time_to_live(lease.etcd_lease).ttl >= 55
    assert etcd_leases(server) - before == {lease.etcd_lease}
    assert check_history(fleet) == 1


def test_another_ttl_is_another_etcd_lease_and_none_is_left_over(
    fleet: Fleet, server: EtcdServers
) -> None:
    before = etcd_leases(server)
    subnet = fleet.acquire(host(1)).decision.after.subnet
    for ttl in (60, 90, 0, 60, 0):
        done = fleet.acquire(host(1), ttl=ttl)
        assert done.changed
        assert not fleet.acquire(host(1), ttl=ttl).changed
        (lease,) = fleet.leases()
        assert lease == done.decision.after
        assert lease.subnet == subnet
        assert bool(lease.etcd_lease) == bool(ttl)
        assert etcd_leases(server) - before == ({lease.etcd_lease} if ttl else set())
        if ttl:
            assert fleet.client.lease_time_to_live(lease.etcd_lease).granted_ttl == ttl
    assert len(fleet.guards()) == 2
    # Never was there a moment without the lease.
    kinds = [e.kind for es in fleet.history() for e in es if "/subnets/" in e.kv.key]
    assert kinds == ["put"] * 6


def test_an_expired_lease_frees_its_subnet_and_the_host_gets_it_again(fleet: Fleet) -> None:
    subnet = fleet.acquire(host(1), ttl=2).decision.after.subnet
    wait(lambda: len(fleet.keys()) == 1, "the end of the lease")
    assert fleet.acquire(host(1), ttl=60).decision.after.subnet == subnet
    check_history(fleet)


def test_release_leaves_neither_lease_nor_guards_nor_etcd_lease(
    fleet: Fleet, server: EtcdServers
) -> None:
    before = etcd_leases(server)
    for ttl in (0, 60):
        lease = fleet.acquire(host(1), ttl=ttl).decision.after
        assert fleet.release(host(1)) == (lease,)
        assert list(fleet.keys()) == ["config"]
        assert fleet.release(host(1)) == ()
    assert etcd_leases(server) == before


def test_release_touches_neither_a_flannelds_lease_nor_another_hosts(fleet: Fleet) -> None:
    fleet.put_lease("10.5.7.0-24", FLANNELD % host(1).public_ip, DAY)
    fleet.acquire(host(2))
    kept = fleet.keys()
    assert fleet.release(host(1)) == ()
    assert fleet.keys() == kept
    fleet.acquire(host(3))
    fleet.release(host(3))
    assert fleet.keys() == kept


# --- changes of a host --------------------------------------------------------------------------


@pytest.mark.matrix
def test_a_new_public_ip_keeps_the_subnet_and_leaves_no_guard(fleet: Fleet) -> None:
    old = fleet.acquire(host(1)).decision.after
    moved = host(1, public_ip="198.51.100.7")
    done = fleet.acquire(moved)
    assert (done.changed, done.decision.before) == (True, old)
    (lease,) = fleet.leases()
    assert (lease.subnet, lease.public_ip) == (old.subnet, "198.51.100.7")
    assert sorted(fleet.guards()) == [
        "flatnet/addresses/198.51.100.7",
        "flatnet/hosts/" + host(1).host_id,
    ]
    # Whoever has the old address now may use it.
    assert fleet.acquire(host(2, public_ip=old.public_ip)).changed
    assert check_history(fleet) == 3


def test_the_old_address_may_be_another_hosts_by_then(fleet: Fleet) -> None:
    fleet.acquire(host(1))
    # Two hosts swap addresses: the first step needs one that is free.
    fleet.acquire(host(2))
    fleet.acquire(host(1, public_ip="198.51.100.7"))
    fleet.acquire(host(2, public_ip=host(1).public_ip))
    fleet.acquire(host(1, public_ip=host(2).public_ip))
    assert {lease.host_id: lease.public_ip for lease in fleet.leases()} == {
        host(1).host_id: host(2).public_ip,
        host(2).host_id: host(1).public_ip,
    }
    assert len(fleet.guards()) == 4
    check_history(fleet)


def test_a_wished_subnet_is_moved_to_and_the_old_key_goes(fleet: Fleet) -> None:
    old = fleet.acquire(host(1)).decision.after
    other = fleet.acquire(host(2)).decision.after
    kept = fleet.keys()
    with pytest.raises(LeaseWouldMove, match=r"%s.*10\.5\.200\.0/24" % old.subnet):
        fleet.acquire(host(1), Wish(subnet="10.5.200.0/24"))
    assert fleet.keys() == kept
    done = fleet.acquire(host(1), Wish(subnet="10.5.200.0/24", move=True))
    assert done.decision.before == old
    assert {lease.subnet for lease in fleet.leases()} == {"10.5.200.0/24", other.subnet}
    # It stays there without the wish.
    assert not fleet.acquire(host(1)).changed
    assert set(fleet.guards().values()) == {"10.5.200.0-24", other.key_name}
    with pytest.raises(SubnetUnavailable, match="overlaps the lease of %s" % other.subnet):
        fleet.acquire(host(1), Wish(subnet=other.subnet, move=True))
    check_history(fleet, moves=True)


def test_a_moved_network_moves_the_lease(fleet: Fleet) -> None:
    fleet.acquire(host(1))
    fleet.configure(CONFIG.replace("10.5", "10.6"))
    # With another address at the same time.
    with pytest.raises(LeaseWouldMove, match="outside the network"):
        fleet.acquire(host(1))
    done = fleet.acquire(host(1, public_ip="198.51.100.7"), Wish(move=True))
    assert done.decision.moved
    (lease,) = fleet.leases()
    assert lease.subnet.startswith("10.6.")
    assert fleet.guards() == {
        "flatnet/hosts/" + host(1).host_id: lease.key_name,
        "flatnet/addresses/198.51.100.7": lease.key_name,
    }
    assert not fleet.acquire(host(1, public_ip="198.51.100.7")).changed
    fleet.release(host(1))
    assert list(fleet.keys()) == ["config"]


@pytest.mark.parametrize("wish", [Wish(move=True), Wish(subnet="10.5.200.0/24", move=True)])
def test_a_move_that_was_cut_short_is_ended(fleet: Fleet, wish: Wish) -> None:
    """Killed between the new lease and the removal of the old one."""
    old = fleet.acquire(host(1)).decision.after
    if not wish.subnet:
        fleet.configure(CONFIG.replace("10.5", "10.6"))
    new = fleet.acquire(host(1), wish).decision.after
    fleet.put_lease(old.key_name, old.to_json())
    done = fleet.acquire(host(1), wish)
    assert done.changed
    assert [lease.subnet for lease in fleet.leases()] == [new.subnet]
    assert not fleet.acquire(host(1), wish).changed


def test_two_who_disagree_which_lease_to_keep_leave_the_host_one(fleet: Fleet) -> None:
    """As a run that moves the host and its flatnet-sync could, not knowing of each other."""
    old = fleet.acquire(host(1)).decision.after
    fleet.put_lease("10.5.200.0-24", old._replace(subnet="10.5.200.0/24").to_json())
    turns: list[tuple[Lease, ...]] = []

    def meanwhile(decision: Decision, dummy: NetworkConfig) -> None:
        turns.append(decision.obsolete)
        if len(turns) == 1:
            fleet.acquire(host(1), Wish(prefer=old.subnet))

    wish = Wish(subnet="10.5.200.0/24", move=True)
    acquire(fleet.store, host(1), wish, approve=meanwhile)
    assert [len(each) for each in turns] == [1, 1]
    assert [lease.subnet for lease in fleet.leases()] == ["10.5.200.0/24"]
    held = 0
    for event in itertools.chain(*fleet.history()):
        if event.kv.key.startswith(fleet.prefix + "/subnets/"):
            held += event.kv.create_revision == event.kv.mod_revision
            held -= event.kind == "delete"
            assert held >= 1, "for a moment there was no lease"


def test_surplus_leases_of_one_host_are_cleaned_to_one(fleet: Fleet) -> None:
    mine = fleet.acquire(host(1)).decision.after
    for name in ("10.5.250.0-24", "10.5.251.0-24"):
        fleet.put_lease(name, mine._replace(public_ip="198.51.100.9").to_json())
    done = fleet.acquire(host(1))
    assert done.changed
    assert len(done.decision.surplus) == 2
    assert [lease.subnet for lease in fleet.leases()] == [mine.subnet]
    assert len(fleet.guards()) == 2
    assert not fleet.acquire(host(1)).changed


# --- others -------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("ttl", [0, 60])
def test_a_flannelds_lease_is_adopted_with_its_subnet(fleet: Fleet, ttl: int) -> None:
    flannelds = fleet.put_lease("10.5.7.0-24", FLANNELD % host(1).public_ip, DAY)
    done = fleet.acquire(host(1), ttl=ttl)
    assert done.changed
    (lease,) = fleet.leases()
    assert (lease.subnet, lease.host_id) == ("10.5.7.0/24", host(1).host_id)
    assert lease.etcd_lease != flannelds
    assert bool(lease.etcd_lease) == bool(ttl)
    # flanneld's etcd lease runs out with nothing on it.
    assert fleet.client.lease_time_to_live(flannelds, keys=True).keys == ()
    fleet.client.lease_revoke(flannelds)
    assert [each.subnet for each in fleet.leases()] == ["10.5.7.0/24"]


def test_an_address_of_another_host_is_refused_naming_both_and_taken_over_on_request(
    fleet: Fleet, server: EtcdServers
) -> None:
    before = etcd_leases(server)
    old = fleet.acquire(host(1), ttl=600).decision.after
    new = host(2, public_ip=host(1).public_ip)
    kept = fleet.keys()
    with pytest.raises(DuplicatePublicIP) as caught:
        fleet.acquire(new)
    for part in ("192.0.2.2 of host2", "of host1 (192.0.2.2)", old.host_id, "takeover"):
        assert part in str(caught.value)
    assert fleet.keys() == kept

    assert fleet.acquire(new, Wish(takeover=True)).decision.after.subnet == old.subnet
    (lease,) = fleet.leases()
    assert (lease.host_id, lease.etcd_lease) == (new.host_id, 0)
    # Nothing is left of the host that was replaced.
    assert sorted(fleet.guards()) == [
        "flatnet/addresses/192.0.2.2",
        "flatnet/hosts/" + new.host_id,
    ]
    assert etcd_leases(server) == before
    assert not fleet.acquire(new).changed


def test_takeover_by_a_host_that_has_a_lease_ends_the_other_hosts(fleet: Fleet) -> None:
    mine = fleet.acquire(host(1)).decision.after
    fleet.acquire(host(2))
    new = host(1, public_ip=host(2).public_ip)
    with pytest.raises(DuplicatePublicIP):
        fleet.acquire(new)
    fleet.acquire(new, Wish(takeover=True))
    (lease,) = fleet.leases()
    assert (lease.subnet, lease.public_ip) == (mine.subnet, host(2).public_ip)
    assert not fleet.acquire(new).changed
    assert sorted(fleet.guards()) == [
        "flatnet/addresses/" + host(2).public_ip,
        "flatnet/hosts/" + host(1).host_id,
    ]


def test_a_cloned_machine_is_refused(fleet: Fleet) -> None:
    fleet.acquire(host(1))
    clone = host(2, host_id=host(1).host_id)
    with pytest.raises(DuplicateHostID, match="a clone of"):
        fleet.acquire(clone)
    assert len(fleet.leases()) == 1


def test_garbage_is_reported_kept_and_its_subnets_are_never_leased(fleet: Fleet) -> None:
    # Four subnets, of which two stand under keys with broken values.
    fleet.configure('{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}')
    garbage = {
        "10.5.0.0-24": "{not JSON",
        "10.5.1.0-24": FLANNELD.replace("4a:be", "zz:zz") % "192.0.2.99",
        "nonsense": "{}",
        "10.5.0.0-33": FLANNELD % "192.0.2.98",
        "10.9.0.0-24": "[]",
    }
    for name, value in garbage.items():
        fleet.put_lease(name, value)
    got = {fleet.acquire(host(number)).decision.after.subnet for number in (1, 2)}
    assert got == {"10.5.2.0/24", "10.5.3.0/24"}
    with pytest.raises(Exception, match="4 of them taken by 4 leases") as caught:
        fleet.acquire(host(3))
    assert type(caught.value).__name__ == "SubnetExhausted"

    snapshot = fleet.store.snapshot()
    assert {lease.subnet for lease in snapshot.leases} == got
    assert {each.key.rpartition("/")[2] for each in snapshot.garbage} == set(garbage)
    assert all(str(each).startswith("key '/network") for each in snapshot.garbage)
    assert fleet.keys("/subnets").items() >= {"subnets/" + k: v for k, v in garbage.items()}.items()
    assert check_history(fleet, foreign=garbage) == 2


def test_leases_of_any_length_are_kept_clear_of(fleet: Fleet) -> None:
    fleet.configure('{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}')
    fleet.put_lease("10.5.0.0-23", FLANNELD % "192.0.2.98")
    fleet.put_lease("10.5.2.64-26", FLANNELD.replace("c3", "c4") % "192.0.2.99")
    assert fleet.acquire(host(1)).decision.after.subnet == "10.5.3.0/24"
    with pytest.raises(Exception, match="4 of them taken by 3 leases"):
        fleet.acquire(host(2))


def test_values_are_json_that_other_readers_parse(fleet: Fleet) -> None:
    fleet.acquire(host(1, hostname='quo"te\\ühost'))
    ((_key, value),) = fleet.keys("/subnets").items()
    assert json.loads(value)["Flatnet"]["Hostname"] == 'quo"te\\ühost'
