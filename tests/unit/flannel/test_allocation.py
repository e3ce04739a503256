# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which subnet a host gets."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.allocation import (
    SubnetExhausted,
    SubnetUnavailable,
    choose,
    is_member,
    is_within,
    near,
    overlapping,
    require_free,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    Pool,
    config_from_dict,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import configs, prefix_of, prefixes4, prefixes6


def pool_of(network: str, **fields: object) -> Pool:
    return config_from_dict({"Network": network, **fields}).ipv4


def overlap(one: str, other: str) -> bool:
    left, right = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return left.version == right.version and left.overlaps(right)


small_pools = configs(dual=False, most=6).map(lambda config: config.ipv4)


def members(pool: Pool) -> list[str]:
    return [
        str(each)
        for each in pool.network.subnets(new_prefix=pool.subnet_len)
        if pool.subnet_min.network_address
        <= each.network_address
        <= pool.subnet_max.network_address
    ]


@st.composite
def pools_and_taken(draw: st.DrawFn) -> tuple[Pool, list[str]]:
    """Taken prefixes of any length within and around a pool, some of the other family."""
    pool = draw(small_pools)
    inside = st.builds(
        prefix_of,
        st.integers(int(pool.network.network_address), int(pool.network.broadcast_address)).map(
            lambda number: str(ipaddress.IPv4Address(number))
        ),
        st.integers(max(pool.network.prefixlen - 1, 1), 32),
    )
    return pool, draw(st.lists(inside | prefixes4 | prefixes6, max_size=12))


@given(pools_and_taken(), st.text(), st.lists(prefixes4, max_size=2))
def test_the_chosen_subnet_is_in_the_pool_and_overlaps_nothing_taken(
    given_: tuple[Pool, list[str]], identity: str, avoid: list[str]
) -> None:
    pool, taken = given_
    free = [each for each in members(pool) if not any(overlap(each, p) for p in taken + avoid)]
    try:
        chosen = choose(pool, taken, identity, avoid=avoid)
    except SubnetExhausted:
        assert not free
    else:
        assert chosen in free
        assert is_member(pool, chosen)
        assert require_free(pool, taken, chosen) == chosen


@given(pools_and_taken(), st.text())
def test_a_host_that_lost_its_lease_gets_the_same_subnet_again(
    given_: tuple[Pool, list[str]], identity: str
) -> None:
    pool, taken = given_
    try:
        chosen = choose(pool, taken, identity)
    except SubnetExhausted:
        return
    assert choose(pool, list(reversed(taken)), identity) == chosen
    # Others came meanwhile, anywhere but there.
    others = [each for each in members(pool) if not overlap(each, chosen)]
    assert choose(pool, taken + others[::2], identity, prefer=chosen) == chosen


@given(pools_and_taken(), st.text(), st.data())
def test_a_preferred_subnet_is_had_exactly_if_it_is_free(
    given_: tuple[Pool, list[str]], identity: str, data: st.DataObject
) -> None:
    pool, taken = given_
    prefer = data.draw(st.sampled_from(members(pool)) | prefixes4 | st.text())
    try:
        chosen = choose(pool, taken, identity, prefer)
    except SubnetExhausted:
        return
    free = prefer in members(pool) and not any(overlap(prefer, each) for each in taken)
    assert (chosen == prefer) == (free or choose(pool, taken, identity) == prefer)


@given(small_pools, st.text(max_size=3))
def test_every_subnet_is_used_before_the_pool_is_exhausted(pool: Pool, fleet: str) -> None:
    taken: list[str] = []
    for number in range(pool.size):
        taken.append(choose(pool, taken, "%s%d" % (fleet, number)))
    assert sorted(taken) == sorted(members(pool))
    with pytest.raises(
        SubnetExhausted, match="are %d subnets, %d of them taken by %d leases" % ((pool.size,) * 3)
    ):
        choose(pool, taken, "one more")


def test_the_remedy_for_an_exhausted_pool_is_the_right_one() -> None:
    pool = pool_of("10.5.0.0/22", SubnetMin="10.5.0.0")
    leases, here = ["10.5.0.0/23"], ["10.5.2.0/23"]
    for taken, avoid, release, elsewhere in (
        (["10.5.0.0/22"], [], True, False),
        (leases, here, True, True),
        # Without this host's own networks there would be room, whatever leases there are.
        ([], ["10.0.0.0/8"], False, True),
        (leases, ["10.5.0.0/16"], False, True),
    ):
        with pytest.raises(SubnetExhausted) as caught:
            choose(pool, taken, "host", avoid=avoid)
        assert ("release leases" in str(caught.value)) == release
        assert ("this host's own networks other" in str(caught.value)) == elsewhere


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("10.5.65.0/26", "10.5.65.0/24"),
        ("10.5.65.0/24", "10.5.65.0/24"),
        ("10.5.64.0/22", "10.5.64.0/24"),
        ("10.6.0.0/24", None),
    ],
)
def test_the_nearest_subnet_of_another_length(subnet: str, expected: str | None) -> None:
    assert near(pool_of("10.5.0.0/16"), subnet) == expected


@given(configs(dual=False).map(lambda config: config.ipv4), prefixes4)
def test_overlaps_and_bounds_are_those_of_ipaddress(pool: Pool, prefix: str) -> None:
    own = str(pool.subnet_min)
    assert (overlapping([prefix], own) == [prefix]) == overlap(prefix, own)
    network = ipaddress.ip_network(prefix)
    assert is_within(pool, prefix) == network.subnet_of(pool.network)  # type: ignore[arg-type]


def test_the_message_of_an_exhausted_pool_has_the_numbers() -> None:
    pool = pool_of("10.5.0.0/16", SubnetMin="10.5.8.0", SubnetMax="10.5.15.0")
    taken = ["10.5.8.0/22", "10.5.12.0/24", "10.5.13.0/25", "10.5.13.128/25", "10.5.14.0/24"]
    with pytest.raises(SubnetExhausted) as caught:
        choose(pool, [*taken, "10.5.200.0/24", "10.5.15.0/24"], "host", avoid=["10.5.15.0/24"])
    assert str(caught.value) == (
        "no free /24 left in 10.5.0.0/16: SubnetMin 10.5.8.0 to SubnetMax 10.5.15.0 are 8 subnets, "
        "8 of them taken by 6 leases; release leases of hosts that are gone, or widen SubnetMin "
        "and SubnetMax"
    )
    with pytest.raises(
        SubnetExhausted, match=r"7 of them .* by 5 leases and 1 by networks of this"
    ):
        choose(pool, taken, "host", avoid=["10.5.15.7/32"])


def test_a_thousand_hosts_at_once_rarely_want_the_same_subnet() -> None:
    pool = pool_of("10.0.0.0/8", SubnetMin="10.16.0.0", SubnetMax="10.31.255.0")
    assert pool.size == 4096
    wanted = [choose(pool, (), "host-%d" % number) for number in range(1000)]
    expected = 4096 * (1 - (1 - 1 / 4096) ** 1000)  # of distinct ones, thrown at random
    assert abs(len(set(wanted)) - expected) < 40
    # Those that wanted the same one part ways with the next step.
    first = max(set(wanted), key=wanted.count)
    rivals = [number for number in range(1000) if wanted[number] == first]
    again = [choose(pool, [first], "host-%d" % number) for number in rivals]
    assert len(rivals) == len(set(again)) > 1


def test_a_pool_of_one_subnet_has_one() -> None:
    pool = pool_of("10.5.0.0/16", SubnetMin="10.5.8.0", SubnetMax="10.5.8.0")
    assert choose(pool, (), "host") == "10.5.8.0/24"


@given(pools_and_taken(), st.data())
def test_a_subnet_that_is_insisted_on_is_had_or_refused(
    given_: tuple[Pool, list[str]], data: st.DataObject
) -> None:
    pool, taken = given_
    wanted = data.draw(st.sampled_from(members(pool)) | prefixes4 | prefixes6 | st.text())
    possible = wanted in members(pool)
    in_the_way = [each for each in taken if possible and overlap(each, wanted)]
    if possible and not in_the_way:
        assert require_free(pool, taken, wanted) == wanted
        return
    with pytest.raises(SubnetUnavailable) as caught:
        require_free(pool, taken, wanted)
    assert str(caught.value).startswith("subnet %s " % wanted)
    assert (in_the_way[0] if possible else str(pool.network)) in str(caught.value)


def test_a_subnet_in_another_spelling_is_had_in_the_usual_one() -> None:
    pool = pool_of("10.5.0.0/16")
    assert require_free(pool, (), "10.5.8.0/255.255.255.0") == "10.5.8.0/24"
    assert choose(pool, (), "host", prefer="10.5.8.0/255.255.255.0") == "10.5.8.0/24"


@given(configs(dual=True))
def test_only_subnets_of_the_pools_family_length_and_bounds_are_members(
    config: NetworkConfig,
) -> None:
    assert config.ipv6
    for pool, other in ((config.ipv4, config.ipv6), (config.ipv6, config.ipv4)):
        assert is_member(pool, str(pool.subnet_min))
        assert is_member(pool, str(pool.subnet_max))
        assert not is_member(other, str(pool.subnet_min))
        assert not is_member(pool, str(pool.network))
        longer = next(pool.subnet_min.subnets())
        assert not is_member(pool, str(longer))
        if pool.subnet_max.broadcast_address != pool.network.broadcast_address:
            after = int(pool.subnet_max.broadcast_address) + 1
            assert not is_member(pool, str(type(pool.network)((after, pool.subnet_len))))
