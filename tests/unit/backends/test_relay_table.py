# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From leases to the relay's table, and its files kept as they should be. No relay runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp import (
    keeper as relay_keeper,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp import (
    relay_table,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp.backend import (
    tun,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import LosingAllPeers
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.links import plan_link
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Change
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import devices, peers
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Underlay,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.config import (
    InvalidRelayConfig,
    RelayPeer,
    RelaySettings,
    RelayTable,
    load_settings,
    load_table,
    parse_table,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import host_ips

UDP = config_from_dict({"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}})
VXLAN = config_from_dict({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}})
UNDERLAY = Underlay("eth0", "192.0.2.11/24", 1500, "of the default route")
OWN = Lease("10.5.1.0/24", "192.0.2.11", host_id="a" * 32, hostname="one", vector=1)
HERE = devices.here(UDP, OWN, UNDERLAY)
SEVEN = RelayPeer("10.5.7.0/24", "192.0.2.7", 1)
EIGHT = RelayPeer("10.5.8.0/24", "192.0.2.8", 0)


def lease(peer: RelayPeer) -> Lease:
    return Lease(peer.subnet, peer.address, vector=peer.vector)


tables = st.dictionaries(st.integers(0, 255), st.tuples(host_ips, st.integers(0, 2))).map(
    lambda found: RelayTable(
        tuple(sorted(RelayPeer("10.5.%d.0/24" % n, *rest) for n, rest in found.items()))
    )
)


def test_a_table_is_the_usable_leases_in_one_order() -> None:
    one = relay_table.desired([lease(EIGHT), lease(SEVEN)], (), RelayTable(), 9)
    assert one == RelayTable((SEVEN, EIGHT), 9)
    assert one.to_json() == (
        '{"revision":9,"peers":[["10.5.7.0/24","192.0.2.7",1],["10.5.8.0/24","192.0.2.8",0]]}\n'
    )


def test_whose_key_has_a_value_that_nobody_understands_stays() -> None:
    before = RelayTable((SEVEN, EIGHT), 8)
    unreadable = ["10.5.7.0/24", "10.5.9.0/24"]
    assert relay_table.desired([], unreadable, before, 9).peers == (SEVEN,)
    # Unless there is a lease of that subnet all the same.
    moved = SEVEN._replace(address="192.0.2.99")
    assert relay_table.desired([lease(moved)], unreadable, before, 9).peers == (moved,)


@given(tables, tables)
def test_changes_lead_from_one_table_to_the_other(before: RelayTable, after: RelayTable) -> None:
    changes = relay_table.changes(before, after)
    found = {peer.subnet: peer for peer in before.peers}
    for change in changes:
        assert change.before != change.after
        for peer in (change.before,):
            if peer:
                assert found.pop(peer.subnet) == peer
        if change.after:
            found[change.after.subnet] = change.after
    assert tuple(sorted(found.values())) == after.peers
    assert (changes == ()) == (before.peers == after.peers)
    assert parse_table(after.to_json()) == after


def test_a_table_is_not_emptied_unasked() -> None:
    with pytest.raises(LosingAllPeers, match="its relay has 1"):
        relay_table.changes(RelayTable((SEVEN,)), RelayTable(), allow_no_peers=False)
    assert len(relay_table.changes(RelayTable((SEVEN,)), RelayTable())) == 1
    assert relay_table.changes(None, RelayTable(), allow_no_peers=False) == ()


def test_changes_in_words() -> None:
    words = [
        str(change)
        for change in relay_table.changes(
            RelayTable((SEVEN,)), RelayTable((SEVEN._replace(vector=0), EIGHT))
        )
    ]
    assert words == [
        "change relay 10.5.7.0/24 to 192.0.2.7, vector 0, from 192.0.2.7, vector 1",
        "add relay 10.5.8.0/24 to 192.0.2.8, vector 0",
    ]


def test_a_table_is_written_with_or_without_a_relay(tmp_path: Path) -> None:
    """One that does not run reads it when it starts."""
    path = str(tmp_path / "new" / "table.json")
    relay_table.write(path, RelayTable((SEVEN,), 3))
    assert load_table(path) == RelayTable((SEVEN,), 3)
    assert relay_table.tell(str(tmp_path / "control")) == ""
    assert relay_table.heed(str(tmp_path / "control"), RelayTable()) == (None, "")


# --- leases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 256, "1", 1.5, True, None, [], {"a": 1}])
def test_garbage_costs_a_host_its_vectors_and_not_its_lease(value: object) -> None:
    text = json.dumps({"PublicIP": "192.0.2.7", "Flatnet": {"HostID": "b" * 32, "Vector": value}})
    assert parse_lease("10.5.7.0-24", text).vector == 0


@pytest.mark.parametrize("newest", ["-1", "256", "1e3", "true", "null", '"1"'])
def test_a_damaged_number_of_a_peer_is_told(newest: str) -> None:
    text = '{"revision": 1, "peers": [["10.5.7.0/24", "192.0.2.7", %s]]}' % newest
    with pytest.raises(InvalidRelayConfig, match=r"\["):
        parse_table(text)


@pytest.mark.parametrize("vector", [1, 2, 255])
def test_vectors_come_back_from_etcd(vector: int) -> None:
    wanted = OWN._replace(vector=vector)
    found = parse_lease(OWN.key_name, wanted.to_json())
    assert found == wanted
    assert not found.same_content(OWN._replace(vector=vector - 1))
    assert "Vector" not in OWN._replace(vector=0).to_json()


# --- the device -----------------------------------------------------------------------------------


def settings(**other: Any) -> RelaySettings:
    return RelaySettings(
        **{
            "device": "flannel0",
            "address": "10.5.1.0",
            "subnet": "10.5.1.0/24",
            "network": "10.5.0.0/16",
            "listen": "192.0.2.11",
            "mtu": 1472,
            "user": "relay",
            **other,
        }
    )


def test_the_device_is_made_anew_only_for_what_cannot_change() -> None:
    device = tun(settings())
    assert device.addresses == (Address("flannel0", "10.5.1.0/32"),)
    held = [*device.addresses, Route("10.5.0.0/16", "flannel0")]
    assert plan_link(device.link, device.link, device.addresses, held, True) == ((), ())
    lower = plan_link(device.link._replace(mtu=1300), device.link, device.addresses, held, True)
    assert lower == ((Change(device.link, device.link._replace(mtu=1300)),), ())
    for name, value in (("user", "other"), ("multi_queue", False), ("vnet_hdr", False)):
        options = tuple(sorted({**device.link.option, name: value}.items()))
        found = plan_link(
            device.link, device.link._replace(options=options), device.addresses, held, True
        )
        assert [reason.split()[0] for reason in found.recreated] == [name]
        # With the route that it had.
        assert Change(None, held[-1]) in found.changes


def test_the_networks_route_stands_whatever_peers_there_are() -> None:
    assert peers.network_routes(UDP) == (Route("10.5.0.0/16", "flannel0"),)
    assert peers.network_routes(VXLAN) == ()


# --- its files ------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> RelaySettings:
    """What tun_relay left."""
    found = settings(table_file=str(tmp_path / "table"), control=str(tmp_path / "control"))
    (tmp_path / "relay.json").write_text(found.to_json())
    return found


@pytest.fixture
def keeper(tmp_path: Path, written: RelaySettings) -> relay_keeper.RelayKeeper:
    keeper = relay_keeper.RelayKeeper(str(tmp_path / "relay.json"))
    keeper.learn(UDP.backend, HERE)
    assert keeper.settings == written
    return keeper


def test_what_no_lease_tells_of_stays_as_it_was_written(
    tmp_path: Path, keeper: relay_keeper.RelayKeeper, written: RelaySettings
) -> None:
    path = tmp_path / "relay.json"
    path.write_text(written._replace(workers=5, vector=False, port=1, mtu=900).to_json())
    keeper.learn(UDP.backend, HERE)
    assert keeper.keep([], (), 1) == ("settings %s" % path,)
    assert load_settings(str(path)) == written._replace(workers=5, vector=False)
    assert keeper.keep([], (), 1) == ()
    keeper.learn(UDP.backend, HERE._replace(subnet="10.5.2.0/24", mtu=9000))
    assert keeper.settings == written._replace(
        workers=5, vector=False, address="10.5.2.0", subnet="10.5.2.0/24", mtu=8972
    )


@pytest.mark.parametrize("damage", ["", "{", '{"device": 1}', None])
def test_damaged_settings_are_written_anew_once_they_were_known(
    tmp_path: Path, keeper: relay_keeper.RelayKeeper, written: RelaySettings, damage: str | None
) -> None:
    path = tmp_path / "relay.json"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(InvalidRelayConfig, match=r"relay\.json"):
        relay_keeper.RelayKeeper(str(path)).learn(UDP.backend, HERE)
    keeper.learn(UDP.backend, HERE)
    assert keeper.keep([], (), 1) == ("settings %s" % path,)
    assert load_settings(str(path)) == written


def test_a_table_follows_events_and_is_compared_otherwise(
    keeper: relay_keeper.RelayKeeper, written: RelaySettings
) -> None:
    keeper.keep([], (), 1)
    assert load_table(written.table_file) == RelayTable((), 1)
    assert len(keeper.follow([lease(SEVEN)], (), 2)) == 1
    assert load_table(written.table_file) == RelayTable((SEVEN,), 2)
    # Another revision alone is nothing that a relay has to know.
    assert keeper.follow([lease(SEVEN)], (), 3) == ()
    assert keeper.keep([lease(SEVEN)], (), 3) == ()
    assert load_table(written.table_file).revision == 2
    Path(written.table_file).write_text(RelayTable((EIGHT,)).to_json())
    assert len(keeper.keep([lease(SEVEN)], (), 3)) == 2
    assert load_table(written.table_file).peers == (SEVEN,)


def test_an_event_before_any_comparison_keeps_what_nobody_can_read(
    keeper: relay_keeper.RelayKeeper, written: RelaySettings
) -> None:
    """As after a boot: the table that is there was written by another process."""
    Path(written.table_file).write_text(RelayTable((SEVEN, EIGHT), 1).to_json())
    assert keeper.follow([lease(SEVEN)], [EIGHT.subnet], 2) == ()
    assert load_table(written.table_file).peers == (SEVEN, EIGHT)


def test_with_another_backend_there_is_no_relay(
    keeper: relay_keeper.RelayKeeper, written: RelaySettings
) -> None:
    keeper.learn(VXLAN.backend, HERE)
    assert keeper.settings is None
    assert keeper.keep([lease(SEVEN)], (), 1) == ()
    assert keeper.inform(look=True) is None
    assert not Path(written.table_file).exists()
    assert keeper.vector(VXLAN.backend, OWN, OWN) == 0


def test_a_lease_goes_on_saying_what_it_said_about_vectors(
    tmp_path: Path, keeper: relay_keeper.RelayKeeper
) -> None:
    flannelds = Lease(OWN.subnet, OWN.public_ip)
    silent = OWN._replace(vector=0)
    assert keeper.vector(UDP.backend, silent, OWN) == 0
    assert keeper.vector(UDP.backend, flannelds, OWN) == 1
    assert keeper.vector(UDP.backend, flannelds, silent) == 0
    assert keeper.vector(UDP.backend, None, None) == 1
    (tmp_path / "relay.json").unlink()
    assert keeper.vector(UDP.backend, None, None) == 0
