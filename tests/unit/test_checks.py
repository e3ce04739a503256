# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of single options: canonical, or refused by the option's name."""

from __future__ import annotations

import ipaddress
from typing import Callable

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks as options
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import ips, macs, prefixes4, prefixes6, unicast_macs

# Lone surrogates too: an argument that was not UTF-8.
texts = st.text(st.characters(codec=None), max_size=20) | st.text(
    st.sampled_from("0123456789abcdef:./%-"), max_size=20
)


@given(texts | ips | prefixes4 | prefixes6 | macs)
def test_any_text_is_taken_or_refused_naming_the_option(value: str) -> None:
    checks: list[Callable[[str, str], str]] = [
        options.device,
        options.address,
        options.interface_address,
        options.network,
        options.mac,
    ]
    for check in checks:
        try:
            found = check("option", value)
        except InvalidInput as refusal:
            message = str(refusal)
        else:
            message = "option: "
            assert check("option", found) == found
        assert message.startswith("option: ")
        assert message.encode()


@given(ips)
def test_addresses_are_canonical(address: str) -> None:
    assert options.address("option", address) == address
    assert options.address("option", ipaddress.ip_address(address).exploded.upper()) == address
    family = ipaddress.ip_address(address).version
    assert options.address("option", address, family) == address
    with pytest.raises(InvalidInput, match="is not an IPv%d address" % (10 - family)):
        options.address("option", address, 10 - family)


@given(prefixes4 | prefixes6)
def test_prefixes_are_canonical(prefix: str) -> None:
    assert options.network("option", prefix) == prefix
    assert options.network("option", ipaddress.ip_network(prefix).exploded.upper()) == prefix


def test_a_prefix_with_host_bits_is_refused_with_what_was_perhaps_meant() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean 10\.5\.94\.0/24\?"):
        options.network("prefix", "10.5.94.7/24")


@pytest.mark.parametrize("value", ["10.5.94.0", "10.5.94.0/", "10.5.94.0/33", "fe80::%1/64", ""])
def test_what_is_no_prefix_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^prefix: "):
        options.network("prefix", value)


@pytest.mark.parametrize("value", ["10.5.94.1", "10.5.94.1/33", "fe80::1%eth0/64", "", "/24"])
def test_an_interface_address_needs_its_prefix_length(value: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address with its prefix length"):
        options.interface_address("addresses", value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("0.0.0.0/24", "unspecified"),
        ("224.0.0.1/24", "multicast"),
        ("127.0.0.2/8", "loopback"),
        ("fe80::1/64", "link-local"),
        ("ff02::1/64", "multicast"),
    ],
)
def test_an_address_that_no_device_should_have_is_refused(value: str, kind: str) -> None:
    with pytest.raises(InvalidInput, match="is %s, not an address to give" % kind):
        options.interface_address("addresses", value)


@given(unicast_macs)
def test_macs_are_taken_in_any_case_and_with_dashes(mac: str) -> None:
    assert options.mac("mac", mac.upper().replace(":", "-")) == mac


@given(macs)
def test_multicast_and_zero_macs_only_where_there_are_many_destinations(mac: str) -> None:
    assert options.mac("mac", mac, many=True) == mac
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        with pytest.raises(InvalidInput, match=r"^mac: .* is not a unicast MAC address"):
            options.mac("mac", mac)


@pytest.mark.parametrize("name", ["eth0", "flannel.1", "a" * 15, "näme", "br-0", "@x", "1"])
def test_a_device_name_is_what_the_kernel_takes(name: str) -> None:
    assert options.device("name", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a" * 16, "ä" * 8, "a/b", "a:b", "a b", "a\tb", "a\n", "a\0", "br%d", "\udc80"],
)
def test_a_device_name_that_the_kernel_would_refuse_or_change_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^name: .* is not a device name"):
        options.device("name", name)


@given(st.none() | st.integers(), st.integers(), st.integers())
def test_a_number_is_within_its_bounds(value: int | None, low: int, high: int) -> None:
    if value is None or low <= value <= high:
        assert options.number("port", value, low, high) == value
    else:
        with pytest.raises(InvalidInput, match=r"^port: %d is not from" % value):
            options.number("port", value, low, high)
