# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lease a host should hold."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import (
    Vtep,
    vtep_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.allocation import (
    SubnetExhausted,
    SubnetUnavailable,
    choose,
    is_member,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Decision,
    DualStackUnsupported,
    DuplicateHostID,
    DuplicatePublicIP,
    LeaseWouldMove,
    Wish,
    decide,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import (
    Host,
    current_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import fleet


def network(text: str = "100.96.0.0/16", kind: str = "vxlan", **fields: object) -> NetworkConfig:
    return config_from_dict({"Network": text, "Backend": {"Type": kind}, **fields})


CONFIG = network()
HOST = Host("a" * 32, "alpha", "10.168.0.21")
OTHER = Host("b" * 32, "beta", "10.168.0.22")


def ask(
    leases: list[Lease],
    host: Host = HOST,
    config: NetworkConfig = CONFIG,
    more: tuple[str, ...] = (),
    **wish: object,
) -> Decision:
    taken = [lease.subnet for lease in leases]
    return decide(config, leases, [*taken, *more], host, Wish(**wish))  # type: ignore[arg-type]


def lease_of(host: Host, subnet: str, config: NetworkConfig = CONFIG) -> Lease:
    return ask([], host, config, subnet=subnet).after


# A new host


def test_a_new_host_gets_a_free_subnet_and_a_lease_with_its_identity() -> None:
    decision = ask(fleet())
    lease = decision.after
    assert decision == Decision(None, lease)
    assert decision.obsolete == ()
    assert not decision.moved
    assert is_member(CONFIG.ipv4, lease.subnet)
    assert lease.subnet not in {other.subnet for other in fleet()}
    assert (lease.public_ip, lease.host_id, lease.hostname) == (
        HOST.public_ip,
        HOST.host_id,
        HOST.hostname,
    )
    assert lease.backend_type == "vxlan"
    assert lease.data == Vtep(1, vtep_mac(HOST.host_id, 1))
    assert parse_lease(lease.key_name, lease.to_json()) == lease


@pytest.mark.parametrize(("kind", "written"), [("host-gw", "host-gw"), ("udp", ""), ("alloc", "")])
def test_the_lease_of_any_other_backend_has_no_vtep(kind: str, written: str) -> None:
    lease = ask([], config=network(kind=kind)).after
    assert (lease.backend_type, lease.data) == (written, None)
    assert parse_lease(lease.key_name, lease.to_json()) == lease


def test_a_vtep_mac_that_is_given_is_used() -> None:
    mac = "02:00:00:00:00:01"
    assert ask([], HOST._replace(vtep_mac=mac)).after.data == Vtep(1, mac)


def test_the_vtep_mac_differs_by_host_and_by_vni() -> None:
    assert len({vtep_mac(host, vni) for host in "abc" for vni in (1, 2, 3)}) == 9


def test_subnets_of_garbage_keys_are_not_given_away() -> None:
    first = ask([]).after.subnet
    assert ask([], more=(first,)).after.subnet != first


def test_the_subnet_of_subnet_env_is_preferred_and_avoided_ones_are_not_taken() -> None:
    assert ask([], prefer="100.96.7.0/24").after.subnet == "100.96.7.0/24"
    assert ask([], prefer="100.96.7.0/24", avoid=("100.96.7.128/25",)).after.subnet == (
        ask([]).after.subnet
    )


def test_a_subnet_that_is_insisted_on_is_had_or_refused() -> None:
    assert ask(fleet(), subnet="100.96.7.0/24").after.subnet == "100.96.7.0/24"
    with pytest.raises(SubnetUnavailable, match=r"100\.96\.45\.0/24 overlaps the lease of"):
        ask(fleet(), subnet="100.96.45.0/24")
    with pytest.raises(SubnetUnavailable, match=r"100\.97\.0\.0/24 is not a /24"):
        ask(fleet(), subnet="100.97.0.0/24")


def test_a_dual_stack_network_is_refused() -> None:
    config = network(EnableIPv6=True, IPv6Network="fd00:10::/48")
    with pytest.raises(DualStackUnsupported, match="EnableIPv6"):
        ask([], config=config)


# A host that has a lease


def test_a_host_keeps_its_lease_as_it_is() -> None:
    mine = ask(fleet()).after._replace(mod_revision=7)
    decision = ask([*fleet(), mine])
    assert decision.before is mine
    assert decision.after.same_content(mine)
    assert (decision.surplus, decision.obsolete, decision.moved) == ((), (), False)


def test_a_host_that_changed_its_address_keeps_its_subnet() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    decision = ask([*fleet(), mine], HOST._replace(public_ip="10.168.0.99"))
    assert decision.before is mine
    assert decision.after == mine._replace(public_ip="10.168.0.99")
    assert not decision.moved


def test_a_host_that_changed_its_name_keeps_its_subnet() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    decision = ask([mine], HOST._replace(hostname="gamma"))
    assert decision.after == mine._replace(hostname="gamma")


def test_a_host_insisting_on_another_subnet_moves_if_that_is_asked_for() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    with pytest.raises(LeaseWouldMove) as caught:
        ask([mine], subnet="100.96.8.0/24")
    for words in (str(HOST), "100.96.7.0/24", "100.96.8.0/24", "set move"):
        assert words in str(caught.value)
    decision = ask([mine], subnet="100.96.8.0/24", move=True)
    assert decision.moved
    assert (decision.before, decision.after.subnet) == (mine, "100.96.8.0/24")
    assert decision.obsolete == (mine,)


@pytest.mark.parametrize(
    "config",
    [network("100.97.0.0/16"), network(SubnetLen=25), network(SubnetMin="100.96.128.0")],
    ids=["network", "length", "bounds"],
)
def test_a_host_moves_when_the_pool_did_if_that_is_asked_for(config: NetworkConfig) -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    decision = ask([mine], config=config, move=True)
    assert decision.moved
    assert is_member(config.ipv4, decision.after.subnet)
    assert decision.obsolete == (mine,)


@pytest.mark.parametrize(
    "config",
    [network(SubnetLen=25), network(SubnetMin="100.96.128.0"), network(SubnetMax="100.96.6.0")],
    ids=["length", "above", "below"],
)
def test_a_host_keeps_a_subnet_that_new_leases_may_not_have(config: NetworkConfig) -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    decision = ask([mine], config=config)
    assert (decision.after, decision.obsolete) == (mine, ())
    assert [words in decision.notes[0] for words in ("keeps", mine.subnet, "flatnet_move")]
    # Nor is it written anew with another subnet when its address changes.
    assert ask([mine], HOST._replace(public_ip="10.168.0.9"), config).after.subnet == mine.subnet


def test_a_host_whose_network_is_another_one_is_told_so() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    with pytest.raises(LeaseWouldMove) as caught:
        ask([mine], config=network("100.97.0.0/16"))
    for words in (str(HOST), mine.subnet, "outside the network 100.97.0.0/16", "set move"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [network("100.97.0.0/16"), network("100.95.0.0/16"), network(SubnetLen=25)],
    ids=["up", "down", "length"],
)
def test_a_move_that_was_cut_short_is_finished(config: NetworkConfig) -> None:
    old = lease_of(HOST, "100.96.7.0/24")._replace(create_revision=3)
    new = ask([old], config=config, move=True).after._replace(create_revision=9)
    decision = ask([old, new], config=config, move=True)
    assert decision.before is new
    assert decision.after.same_content(new)
    assert decision.obsolete == (old,)
    assert ask([new], config=config).obsolete == ()


def test_a_move_that_was_cut_short_may_be_taken_back() -> None:
    old = lease_of(HOST, "100.96.7.0/24")._replace(create_revision=3)
    new = ask([old], config=network(SubnetLen=25), move=True).after._replace(create_revision=9)
    for config in (network(SubnetLen=25), CONFIG):
        decision = ask([old, new], config=config)
        assert (decision.before, decision.after.subnet) == (old, old.subnet)
        assert decision.obsolete == (new,)
    # Where the host could not keep its former subnet, there is no way but on.
    config = network("100.97.0.0/16")
    new = ask([old], config=config, move=True).after._replace(create_revision=9)
    assert ask([old, new], config=config).obsolete == (old,)


@pytest.mark.parametrize(
    ("length", "expected"), [(26, "100.96.7.0/26"), (25, "100.96.7.0/25"), (22, "100.96.4.0/22")]
)
def test_a_move_to_another_length_stays_near_and_leads_back(length: int, expected: str) -> None:
    mine = lease_of(HOST, "100.96.7.0/24")
    there = ask([mine], config=network(SubnetLen=length), move=True).after
    assert there.subnet == expected
    if length > 24:
        assert ask([there], move=True).after.subnet == mine.subnet


def test_a_move_to_a_subnet_that_was_insisted_on_is_finished() -> None:
    old, new = lease_of(HOST, "100.96.7.0/24"), lease_of(HOST, "100.96.8.0/24")
    for wanted, before, rest in (("100.96.8.0/24", new, old), ("100.96.7.0/24", old, new)):
        decision = ask([old, new], subnet=wanted, move=True)
        assert (decision.before, decision.obsolete) == (before, (rest,))


def test_a_host_with_several_leases_keeps_that_of_its_present_address() -> None:
    host = HOST._replace(public_ip="10.168.0.99")
    stale = lease_of(HOST, "100.96.7.0/24")
    fresh = lease_of(host, "100.96.8.0/24")
    decision = ask([stale, fresh], host)
    assert decision.before is fresh
    assert decision.surplus == decision.obsolete == (stale,)
    assert current_lease([stale, fresh], host) is fresh


# Whatever else is in etcd

KEYS = ["100.96.0.0-20", "100.96.7.0-25", "100.96.7.7-32", "100.96.7.0-24&fd00:10::-64"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("age", ["older", "younger"])
def test_a_subnet_that_another_key_overlaps_is_kept(key: str, age: str) -> None:
    mine = lease_of(HOST, "100.96.7.0/24")._replace(create_revision=5)
    value = '{"PublicIP":"10.168.0.12","PublicIPv6":null}'
    other = parse_lease(key, value, create_revision=3 if age == "older" else 7)
    for garbage, leases in (((), [mine, other]), ((other.subnet,), [mine])):
        decision = ask(leases, more=garbage)
        assert (decision.after.subnet, decision.obsolete) == (mine.subnet, ())
        assert other.subnet in decision.notes[0]
        # A move that is allowed is made only off a lease that was there first.
        moved = ask(leases, more=garbage, move=True)
        assert moved.moved == (age == "older" and other in leases)
        if moved.moved:
            new = ipaddress.ip_network(moved.after.subnet)
            assert not new.overlaps(ipaddress.ip_network(other.subnet))
    # A host that has no lease yet keeps off.
    assert ask([other], prefer=mine.subnet).after.subnet != mine.subnet


def test_an_established_host_is_not_refused_for_what_others_wrote() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")._replace(create_revision=5)
    clone = lease_of(OTHER._replace(host_id=HOST.host_id), "100.96.1.0/24")
    double = lease_of(OTHER._replace(public_ip=HOST.public_ip), "100.96.2.0/24")
    decision = ask([clone, double, mine])
    assert (decision.before, decision.after.subnet) == (mine, mine.subnet)
    assert decision.obsolete == ()
    assert [clone.subnet in decision.notes[0], double.subnet in decision.notes[1]] == [True, True]
    # At an address that it has not had until now it is a newcomer.
    with pytest.raises(DuplicatePublicIP):
        ask([double, lease_of(HOST._replace(public_ip="10.168.0.99"), "100.96.7.0/24")])


def test_a_forged_lease_of_this_host_does_not_move_it() -> None:
    mine = lease_of(HOST, "100.96.7.0/24")._replace(create_revision=5)
    forged = lease_of(HOST, "100.96.1.0/24")._replace(create_revision=9)
    decision = ask([forged, mine])
    assert (decision.before, decision.obsolete) == (mine, (forged,))
    assert current_lease([forged, mine], HOST) is mine
    # Nor does an older one: the host knows which subnet it uses.
    forged = forged._replace(create_revision=2)
    assert ask([forged, mine], prefer=mine.subnet).obsolete == (forged,)


def test_of_several_leases_for_its_address_a_host_adopts_the_one_that_it_uses() -> None:
    value = '{"PublicIP":"%s","PublicIPv6":null}' % HOST.public_ip
    names = ["100.96.1.0-24", "100.96.2.0-30", "100.96.3.0-24", "100.97.4.0-24"]
    one, short, two, outside = (parse_lease(n, value, create_revision=9) for n in names)
    planted = [one, short, two, outside]
    assert ask(planted).before == one
    assert ask([one, two._replace(create_revision=4)]).before == two._replace(create_revision=4)
    for used in (two, short):
        decision = ask(planted, prefer=used.subnet)
        assert (decision.before, decision.after.subnet) == (used, used.subnet)
    # What nobody could use does not make the host a holder, with or without others.
    for useless in (short, outside):
        assert is_member(CONFIG.ipv4, ask([useless]).after.subnet)


def test_an_exhausted_pool_refuses_new_hosts_and_keeps_old_ones() -> None:
    config = network("100.96.0.0/24", SubnetLen=26)
    full = [
        lease_of(Host(c * 32, c, "10.0.0.%d" % n), s, config)
        for n, (c, s) in enumerate(
            zip("xyz", ["100.96.0.64/26", "100.96.0.128/26", "100.96.0.192/26"]), 1
        )
    ]
    with pytest.raises(SubnetExhausted, match="3 subnets, 3 of them taken by 3 leases"):
        ask(full, config=config)
    assert ask(full, Host("x" * 32, "x", "10.0.0.1"), config).after == full[0]


# A flanneld's lease


def test_a_flannelds_lease_of_our_address_is_adopted_with_its_subnet() -> None:
    host = HOST._replace(public_ip="10.168.0.12")
    decision = ask(fleet(), host)
    theirs = fleet()[1]
    assert decision.before == theirs
    assert decision.after.key_name == theirs.key_name
    assert decision.after.host_id == host.host_id
    assert not decision.obsolete
    assert current_lease(fleet(), host) == theirs


def test_our_own_lease_goes_before_an_adoptable_one_which_stays() -> None:
    host = HOST._replace(public_ip="10.168.0.12")
    mine = lease_of(host, "100.96.7.0/24")
    decision = ask([*fleet(), mine], host)
    assert decision.before is mine
    assert decision.obsolete == ()


def test_an_adoptable_lease_outside_the_pool_is_replaced() -> None:
    host = HOST._replace(public_ip="10.168.0.12")
    config = network("100.97.0.0/16")
    decision = ask(fleet(), host, config)
    assert decision.moved
    assert decision.obsolete == (fleet()[1],)


def test_a_dual_stack_lease_of_ours_becomes_an_ipv4_one_with_its_subnet() -> None:
    value = '{"PublicIP":"%s","PublicIPv6":"fd00::1"}' % HOST.public_ip
    dual = parse_lease("100.96.7.0-24&fd00:10::-64", value)
    decision = ask([dual])
    assert decision.after.key_name == "100.96.7.0-24"
    assert decision.obsolete == (dual,)


# Two hosts, one address or identity


def test_an_address_that_another_host_holds_is_refused_naming_both() -> None:
    theirs = lease_of(OTHER._replace(public_ip=HOST.public_ip), "100.96.7.0/24")
    with pytest.raises(DuplicatePublicIP) as caught:
        ask([theirs])
    for words in (str(HOST), "beta (10.168.0.21)", OTHER.host_id, theirs.subnet, "takeover"):
        assert words in str(caught.value)


def test_an_identity_that_another_host_has_is_refused_naming_both() -> None:
    theirs = lease_of(OTHER._replace(host_id=HOST.host_id), "100.96.7.0/24")
    with pytest.raises(DuplicateHostID) as caught:
        ask([theirs])
    for words in (str(HOST), str(OTHER), HOST.host_id, theirs.subnet, "takeover"):
        assert words in str(caught.value)


def test_a_takeover_gets_the_lease_of_the_host_that_is_replaced() -> None:
    for theirs in (
        lease_of(OTHER._replace(public_ip=HOST.public_ip), "100.96.7.0/24"),
        lease_of(OTHER._replace(host_id=HOST.host_id), "100.96.7.0/24"),
    ):
        decision = ask([theirs], takeover=True)
        assert decision.before is theirs
        assert decision.after == lease_of(HOST, "100.96.7.0/24")
        assert not decision.obsolete


def test_after_a_takeover_there_is_no_duplicate_left() -> None:
    mine = lease_of(HOST._replace(public_ip="10.168.0.99"), "100.96.7.0/24")
    theirs = lease_of(OTHER._replace(public_ip=HOST.public_ip), "100.96.8.0/24")
    decision = ask([mine, theirs], takeover=True)
    assert decision.before is mine
    assert decision.obsolete == (theirs,)
    assert ask([decision.after]).after == decision.after


# Whatever there is


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Lease], Host]:
    """A few hosts on a tight pool, some cloned, some moved, some flannelds."""
    subnets = ["100.96.%d.0/24" % n for n in range(1, 7)] + ["100.97.1.0/24", "100.96.2.0/25"]
    found = []
    for subnet in draw(st.lists(st.sampled_from(subnets), unique=True)):
        host = Host(
            draw(st.sampled_from(["a" * 32, "b" * 32, ""])),
            draw(st.sampled_from(["alpha", "beta"])),
            draw(st.sampled_from(["10.168.0.21", "10.168.0.22", "10.168.0.23"])),
        )
        lease = lease_of(HOST, "100.96.1.0/24")
        found.append(
            lease._replace(
                subnet=subnet,
                public_ip=host.public_ip,
                host_id=host.host_id,
                hostname=host.hostname if host.host_id else "",
            )
        )
    return found, HOST


@given(situations(), st.booleans(), st.booleans())
def test_carrying_a_decision_out_settles_it(
    situation: tuple[list[Lease], Host], takeover: bool, move: bool
) -> None:
    leases, host = situation
    config = network(SubnetMax="100.96.6.0")
    try:
        decision = ask(leases, host, config, takeover=takeover, move=move)
    except (DuplicateHostID, DuplicatePublicIP):
        assert not takeover
        return
    except LeaseWouldMove:
        assert not move
        return
    except SubnetExhausted:
        return
    written = {lease.key_name: lease for lease in leases}
    assert set(decision.surplus) <= set(leases)
    known = written.get(decision.after.key_name)
    # What the new lease is written over is what was held, so that no other's is lost.
    assert known in (None, decision.before)
    written[decision.after.key_name] = decision.after
    for lease in decision.obsolete:
        assert written.pop(lease.key_name) is lease
    after = list(written.values())
    mine = [lease for lease in after if lease.host_id == host.host_id]
    # A clone's, which is told of and left alone.
    clones = [lease for lease in mine if lease is not decision.after]
    assert all(lease.hostname != host.hostname for lease in clones)
    assert not (takeover and clones)
    again = ask(after, host, config)
    assert again._replace(notes=()) == Decision(decision.after, decision.after)
    assert current_lease(after, host) == decision.after
    if decision.before and not decision.moved:
        return
    subnet = ipaddress.ip_network(decision.after.subnet)
    for lease in after:
        assert lease is decision.after or not subnet.overlaps(ipaddress.ip_network(lease.subnet))


@given(st.lists(st.uuids().map(lambda uuid: uuid.hex), unique=True, max_size=20))
def test_hosts_that_come_one_after_the_other_all_get_subnets_of_their_own(ids: list[str]) -> None:
    found: list[Lease] = []
    for number, host_id in enumerate(ids):
        host = Host(host_id, "h%d" % number, "10.168.1.%d" % number)
        found.append(ask(found, host).after)
    assert len({lease.subnet for lease in found}) == len(ids)
    if ids:
        assert found[0].subnet == choose(CONFIG.ipv4, (), ids[0])
