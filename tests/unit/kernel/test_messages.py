# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries as rtnetlink messages, and back. Bytes in hexadecimal are little-endian machines'."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel import (
    messages,
    netlink,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Fdb,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.netlink import (
    APPEND,
    CREATE,
    EXCL,
    REPLACE,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import addresses, fdbs, neighs, routes, routes4, routes6

INDEX = {"eth0": 2, "flannel.1": 7, "cni0": 9}
NAMES = {number: name for name, number in INDEX.items()}
FLANNEL = [
    Neigh("flannel.1", "100.96.57.0", "fa:64:8e:9e:ba:64"),
    Fdb("flannel.1", "fa:64:8e:9e:ba:64", "10.168.0.12"),
    Route("100.96.57.0/24", "flannel.1", "100.96.57.0", onlink=True),
]


def body_of(entry: Address | Neigh | Fdb | Route) -> bytes:
    (message,) = messages.encode(None, entry, INDEX)
    return message.body


# Back as it was


@given(neighs)
def test_a_neighbour_survives_the_wire(entry: Neigh) -> None:
    body = body_of(entry)
    assert messages.decode_neigh(body, entry.dev, INDEX[entry.dev]) == entry
    assert messages.decode_neigh(body, "other", 99) is None


@given(fdbs)
def test_an_fdb_entry_survives_the_wire(entry: Fdb) -> None:
    body = body_of(entry)
    assert messages.decode_fdb(body, entry.dev, INDEX[entry.dev], NAMES) == entry
    assert messages.decode_fdb(body, "other", 99, NAMES) is None


@given(routes)
def test_a_route_survives_the_wire(entry: Route) -> None:
    body = body_of(entry)
    assert messages.decode_route(body, entry.table, NAMES) == entry
    assert messages.decode_route(body, entry.table + 1, NAMES) is None
    everywhere = messages.decode_route(body, None, NAMES)
    assert everywhere == (None if entry.table == 255 else entry)


@given(addresses)
def test_an_address_survives_the_wire(entry: Address) -> None:
    body = body_of(entry)
    assert messages.decode_address(body, NAMES) == entry
    assert messages.decode_address(body, {}) is None


@given(st.binary(max_size=64), st.integers(0, 0x3FFF), st.integers(0, 20))
def test_attributes_survive_the_wire_padded_to_four_bytes(
    value: bytes, kind: int, offset: int
) -> None:
    packed = netlink.attribute(kind, value)
    assert len(packed) % 4 == 0
    other = kind ^ 1
    data = b"\xff" * offset + packed + netlink.attribute(other, b"x")
    assert netlink.attributes(data, offset) == {kind: value, other: b"x"}


@given(st.binary(max_size=200))
def test_attributes_of_any_bytes_come_to_an_end(data: bytes) -> None:
    assert len(netlink.attributes(data, 0)) <= len(data) // 4


# As iproute2 sends it


@pytest.mark.skipif(sys.byteorder != "little", reason="captured on a little-endian machine")
@pytest.mark.parametrize(
    ("entry", "kind", "body"),
    [
        (FLANNEL[0], 28, "02000000 07000000 80000000 08000100 64603900 0a000200 fa648e9eba640000"),
        (FLANNEL[1], 28, "07000000 07000000 80000200 0a000200 fa648e9eba640000 08000100 0aa8000c"),
        (
            FLANNEL[2],
            24,
            "02180000 fe6e0001 04000000 08000f00 fe000000 08000100 64603900 08000400 07000000 "
            "08000500 64603900",
        ),
        (
            Address("cni0", "10.5.94.1/24"),
            20,
            "02180000 09000000 08000200 0a055e01 08000100 0a055e01",
        ),
    ],
)
def test_the_bytes_are_those_of_linuxs_headers(
    entry: Neigh | Fdb | Route | Address, kind: int, body: str
) -> None:
    (message,) = messages.encode(None, entry, INDEX)
    assert message.type == kind
    assert message.body.hex() == body.replace(" ", "")


def test_a_port_is_in_network_order_and_nothing_else_is() -> None:
    body = body_of(FLANNEL[1]._replace(port=8472, vni=7, via="eth0"))
    found = netlink.attributes(body, 12)
    assert found[6] == (8472).to_bytes(2, "big")
    assert found[7] == (7).to_bytes(4, sys.byteorder)
    assert found[8] == (2).to_bytes(4, sys.byteorder)


# What is asked of the kernel


def test_what_was_not_there_is_created_and_what_was_is_replaced() -> None:
    neigh, fdb, route = FLANNEL
    for entry in (neigh, fdb, route):
        (message,) = messages.encode(entry, entry, INDEX)
        assert message.flags == CREATE | REPLACE
    # A neighbour or MAC that the kernel learned by itself gives way.
    for entry in (neigh, fdb):
        (message,) = messages.encode(None, entry, INDEX)
        assert message.flags == CREATE | REPLACE


def test_a_new_route_never_replaces_one_that_somebody_added_meanwhile() -> None:
    (message,) = messages.encode(None, FLANNEL[2], INDEX)
    assert message.flags == CREATE | EXCL


@given(fdbs)
def test_only_lists_of_destinations_are_appended_to(entry: Fdb) -> None:
    (message,) = messages.encode(None, entry, INDEX)
    many = entry.mac == "00:00:00:00:00:00" or bool(int(entry.mac[:2], 16) & 1)
    assert message.flags == CREATE | (APPEND if many else REPLACE)


@given(addresses | neighs | fdbs | routes)
def test_a_removal_names_what_the_kernel_knows_the_entry_by(
    entry: Address | Neigh | Fdb | Route,
) -> None:
    (message,) = messages.encode(entry, None, INDEX)
    (added,) = messages.encode(None, entry, INDEX)
    assert (message.type, message.flags) == (added.type + 1, 0)
    if isinstance(entry, Route):
        found = messages.decode_route(message.body, entry.table, NAMES)
        assert found is not None
        assert found.key == entry.key
        assert (found.dev, found.gateway) == (entry.dev, entry.gateway)
        assert found.protocol == entry.protocol
    elif isinstance(entry, Fdb):
        # A unicast MAC has one destination, whatever it is; of a list, one is taken.
        kept = 12 + 12 + (8 if entry.src_vni is not None else 0)
        assert message.body == (added.body if entry.many else added.body[:kept])


@given(routes4 | routes6)
def test_an_ipv6_route_without_a_metric_has_the_kernels_own(entry: Route) -> None:
    for before, after in ((None, entry), (entry, None)):
        (message,) = messages.encode(before, after, INDEX)
        priority = netlink.attributes(message.body, 12).get(6)
        metric = struct.unpack("=I", priority)[0] if priority else 0
        assert metric == (entry.metric or (1024 if ":" in entry.dst else 0))


def test_the_prefix_length_of_an_ipv6_address_changes_by_removal() -> None:
    before, after = Address("cni0", "fd00::1/64"), Address("cni0", "fd00::1/80")
    assert before.key == after.key
    sent = messages.encode(before, after, INDEX)
    assert [message.type for message in sent] == [netlink.RTM_DELADDR, netlink.RTM_NEWADDR]
    assert messages.decode_address(sent[1].body, NAMES) == after


def test_a_device_that_is_not_there_is_a_key_error_with_its_name() -> None:
    index: Mapping[str, int] = {}
    for entry in (*FLANNEL, Address("flannel.1", "10.5.94.0/32")):
        with pytest.raises(KeyError, match=r"flannel\.1"):
            messages.encode(None, entry, index)


# What is not ours to see


def test_what_the_kernel_learned_by_itself_is_not_seen() -> None:
    neigh, fdb = bytearray(body_of(FLANNEL[0])), bytearray(body_of(FLANNEL[1]))
    for body in (neigh, fdb):
        body[8:10] = struct.pack("=H", 0x02)  # NUD_REACHABLE
    assert messages.decode_neigh(bytes(neigh), "flannel.1", 7) is None
    assert messages.decode_fdb(bytes(fdb), "flannel.1", 7, NAMES) is None


def test_an_fdb_entry_of_the_bridge_above_is_not_seen() -> None:
    body = bytearray(body_of(FLANNEL[1]))
    body[10] = 0x04  # NTF_MASTER instead of NTF_SELF
    assert messages.decode_fdb(bytes(body), "flannel.1", 7, NAMES) is None


@pytest.mark.parametrize(
    ("kind", "dev"),
    [(1, "flannel.1"), (6, "(blackhole)"), (7, "(unreachable)"), (8, "(prohibit)"), (9, "(throw)")]
    + [(2, None), (3, None), (5, None)],
)
def test_a_route_of_another_sort_is_seen_with_its_place_only(kind: int, dev: str | None) -> None:
    body = bytearray(body_of(FLANNEL[2]))
    body[7] = kind
    found = messages.decode_route(bytes(body), 254, NAMES)
    assert (found.dev if found else None) == dev
    if found:
        assert found.simple == (kind == 1)
        assert found.key == FLANNEL[2].key


def test_a_route_with_several_next_hops_has_no_device() -> None:
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, 254, 4, 0, 1, 0)
    body = header + netlink.attribute(1, bytes([100, 96, 57, 0])) + netlink.attribute(9, bytes(16))
    found = messages.decode_route(body, 254, NAMES)
    assert found is not None
    assert (found.dev, found.simple) == ("(several next hops)", False)


def test_the_default_route_has_no_destination_attribute() -> None:
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 16, 0, 1, 0)
    body = header + netlink.attribute(4, struct.pack("=I", 2))
    assert messages.decode_route(body, 254, NAMES) == Route("0.0.0.0/0", "eth0", protocol=16)


def test_link_local_and_host_addresses_are_the_kernels_own_affair() -> None:
    body = bytearray(body_of(Address("cni0", "10.5.94.1/24")))
    for scope, seen in ((0, True), (200, True), (253, False), (254, False)):
        body[3] = scope
        assert (messages.decode_address(bytes(body), NAMES) is not None) == seen


def test_an_fdb_entry_through_a_device_that_is_gone_keeps_its_number() -> None:
    entry = FLANNEL[1]._replace(via="eth0")
    found = messages.decode_fdb(body_of(entry), "flannel.1", 7, {7: "flannel.1"})
    assert found == entry._replace(via="2")
    (message,) = messages.encode(found, None, {"flannel.1": 7})
    assert message.body == messages.encode(entry, None, INDEX)[0].body
