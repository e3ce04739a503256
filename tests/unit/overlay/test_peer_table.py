# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event by event, the table comes to the same as a look at all leases at once."""

from __future__ import annotations

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import Address
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.peer_table import (
    PeerTable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.peers import encode
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.rules import Rules
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Adjacency,
    Underlay,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import apply, kernel_of

CONFIG = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
OWN = Lease("10.5.200.0/24", "192.0.2.1", "vxlan", Vtep(1, "02:00:00:00:00:01"))
UNDERLAY = Underlay("eth0", "192.0.2.1/24", 1500, "the only one")

# So few of everything that leases clash with one another, and chains of clashes form.
_names = st.sampled_from([*range(1, 9), 200]).map("10.5.{}.0/24".format) | st.sampled_from(
    ["10.5.1.0/25", "10.5.1.64/26", "10.5.4.0/22", "10.5.0.0/21", "10.5.5.7/32", "10.5.6.0/23"]
)
_leases = st.builds(
    Lease,
    _names,
    st.integers(1, 6).map("192.0.2.{}".format),
    st.sampled_from(["vxlan"] * 5 + ["host-gw"]),
    data=st.builds(Vtep, st.just(1), st.integers(1, 6).map("02:00:00:00:00:0{}".format)),
    data6=st.none(),
    create_revision=st.integers(0, 8),
).map(lambda lease: lease if lease.backend_type == "vxlan" else lease._replace(data=None))
_changes = st.lists(st.lists(st.tuples(st.booleans(), _leases), max_size=4), max_size=12)


def table() -> PeerTable:
    link = Adjacency(UNDERLAY, ())
    rules = Rules(CONFIG, OWN, [Address("eth0", "192.0.2.1/24")], link, config_revision=6)
    return PeerTable(rules, lambda usable: encode(CONFIG, usable, link))


@given(st.lists(_leases, max_size=10), _changes)
def test_events_and_a_listing_come_to_the_same(
    listed: list[Lease], batches: list[list[tuple[bool, Lease]]]
) -> None:
    leases = {lease.key_name: lease for lease in listed}
    followed = table()
    followed.replace(leases.values())
    kernel = kernel_of(followed.desired.values())
    for batch in batches:
        changed: dict[str, Lease | None] = {}
        for there, lease in batch:
            changed[lease.key_name] = lease if there else None
        for name, after in changed.items():
            if after:
                leases[name] = after
            else:
                leases.pop(name, None)
        kernel = apply(followed.update(changed), kernel)
        fresh = table()
        fresh.replace(leases.values())
        assert kernel == followed.desired == fresh.desired
        assert followed.skipped == fresh.skipped
        assert followed.leases == fresh.leases
        assert OWN.key_name not in followed.skipped
        assert followed.peers == fresh.peers


def test_a_change_costs_no_look_at_the_others() -> None:
    many = [
        Lease("10.5.%d.0/24" % n, "192.0.3.%d" % n, "vxlan", Vtep(1, "02:00:00:00:01:%02x" % n))
        for n in range(1, 150)
    ]
    followed = table()
    followed.replace(many)
    judged: list[int] = []
    choose = followed._rules.choose
    followed._rules.choose = lambda leases: choose(judged.append(1) or each for each in leases)  # type: ignore[method-assign, func-returns-value]
    followed.update({many[7].key_name: many[7]._replace(public_ip="192.0.4.1")})
    assert len(judged) == 1


def test_an_unchanged_lease_changes_nothing() -> None:
    lease = Lease("10.5.7.0/24", "192.0.2.7", "vxlan", Vtep(1, "02:00:00:00:00:07"))
    followed = table()
    followed.replace([lease])
    assert followed.update({lease.key_name: lease._replace(mod_revision=9)}) == ()
    assert followed.update({"no-such-key": None}) == ()
