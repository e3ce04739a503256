# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network's config: flannel's fields, its defaults, and every way to get them wrong."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vxlan
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    InvalidConfig,
    NetworkConfig,
    config_from_dict,
    parse_config,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import CONFIG, configs


def parse(**fields: Any) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **fields}))


def backend(**fields: Any) -> Any:
    return parse(Backend=fields).backend


# Defaults


def test_a_config_as_people_write_it_gets_flannels_defaults() -> None:
    config = parse_config(CONFIG)
    assert config.network == "100.96.0.0/16"
    assert config.ipv4.subnet_len == 24
    assert str(config.ipv4.subnet_min) == "100.96.1.0/24"
    assert str(config.ipv4.subnet_max) == "100.96.255.0/24"
    assert config.ipv4.size == 255
    assert config.ipv6 is None
    assert config.backend == Vxlan(1, 8472, None, False, False, False)
    assert config.backend.device == "flannel.1"


def test_host_bits_of_the_network_are_masked() -> None:
    assert parse(Network="10.5.3.7/16").network == "10.5.0.0/16"


@pytest.mark.parametrize(
    ("network", "length"),
    [("10.0.0.0/8", 24), ("10.5.0.0/21", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25)]
    + [("10.5.0.0/24", 26), ("10.5.0.0/27", 29), ("10.5.0.0/28", 30)],
)
def test_subnet_len_is_24_in_networks_of_22_or_larger_and_two_more_in_smaller_ones(
    network: str, length: int
) -> None:
    pool = parse(Network=network).ipv4
    assert pool.subnet_len == length
    subnets = list(ipaddress.ip_network(network).subnets(new_prefix=length))
    assert (pool.subnet_min, pool.subnet_max) == (subnets[1], subnets[-1])


@pytest.mark.parametrize(
    ("network", "length"),
    [("fd00:10::/32", 64), ("fd00:10::/62", 64), ("fd00:10::/63", 65), ("fd00:10::/124", 126)],
)
def test_ipv6_subnet_len_is_64_in_networks_of_62_or_larger(network: str, length: int) -> None:
    pool = parse(EnableIPv6=True, IPv6Network=network).ipv6
    assert pool is not None
    assert pool.subnet_len == length
    step = 1 << (128 - length)
    assert int(pool.subnet_min.network_address) == int(pool.network.network_address) + step
    assert pool.subnet_max.broadcast_address == pool.network.broadcast_address


def test_subnet_len_zero_means_unset_as_in_go() -> None:
    assert parse(SubnetLen=0).ipv4.subnet_len == 24


def test_keys_are_matched_in_any_case_and_the_last_one_wins_as_in_go() -> None:
    text = '{"NETWORK":"10.9.0.0/16","network":"10.5.0.0/16","backend":{"TYPE":"VXLAN","vni":7}}'
    config = parse_config(text)
    assert config.network == "10.5.0.0/16"
    assert (config.backend.type, config.backend.vni) == ("vxlan", 7)
    twice = '{"Network":"10.1.0.0/16","network":"10.2.0.0/16","Network":"10.3.0.0/16"}'
    assert parse_config(twice).network == "10.3.0.0/16"


def test_null_means_unset_and_unknown_fields_are_ignored() -> None:
    assert parse(SubnetLen=None, Backend=None, EnableIPv6=None, Whatever=[1]) == parse()


def test_without_a_type_the_backend_is_udp_and_a_written_config_always_has_one() -> None:
    config = parse()
    assert (config.backend.type, config.backend.port) == ("udp", 8285)
    assert json.loads(config.to_json())["Backend"] == {"Type": "udp", "Port": 8285}


@pytest.mark.parametrize(
    ("kind", "port", "device", "mtu"),
    [
        ("vxlan", 8472, "flannel.1", 1450),
        ("udp", 8285, "flannel0", 1472),
        ("host-gw", None, None, 1500),
        ("alloc", None, None, 1500),
    ],
)
def test_each_backend_has_its_port_device_and_overhead(
    kind: str, port: int | None, device: str | None, mtu: int
) -> None:
    found = backend(Type=kind)
    assert (found.port, found.device, found.overlay_mtu(1500)) == (port, device, mtu)


def test_the_mtu_of_the_config_is_the_outer_one() -> None:
    assert backend(Type="vxlan", MTU=1400).overlay_mtu(9000) == 1350


# Serialised


@given(configs())
def test_a_config_survives_being_written_and_read(config: NetworkConfig) -> None:
    assert parse_config(config.to_json()) == config
    assert parse_config(config.to_json().encode()) == config
    assert config_from_dict(config.to_dict()) == config
    assert parse_config(config.to_json()).to_json() == config.to_json()


def test_a_written_config_has_flannels_field_names_in_flannels_order() -> None:
    config = parse(
        Backend={"Type": "vxlan", "DirectRouting": True, "MTU": 1400},
        SubnetMin="10.5.16.0",
        SubnetMax="10.5.31.0",
        EnableIPv6=True,
        IPv6Network="fd00:10::/48",
        IPv6SubnetMax="fd00:10:0:ff::",
    )
    assert config.to_json() == (
        '{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.16.0","SubnetMax":"10.5.31.0",'
        '"EnableIPv6":true,"IPv6Network":"fd00:10::/48","IPv6SubnetLen":64,'
        '"IPv6SubnetMax":"fd00:10:0:ff::",'
        '"Backend":{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1400,"DirectRouting":true}}'
    )


@given(configs())
def test_the_size_of_a_pool_is_the_number_of_subnets_from_min_to_max(config: NetworkConfig) -> None:
    for pool in filter(None, (config.ipv4, config.ipv6)):
        step = 1 << (pool.network.max_prefixlen - pool.subnet_len)
        last = int(pool.subnet_min.network_address) + (pool.size - 1) * step
        assert last == int(pool.subnet_max.network_address)
        assert pool.subnet_min.network_address in pool.network
        assert pool.subnet_max.broadcast_address in pool.network


# Refused, by the name of the field

IPV6 = {"EnableIPv6": True, "IPv6Network": "fd00:10::/48"}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        # flannel's own rules
        ({"Network": "10.5.0.0/29"}, "Network", "use a /28"),
        ({"Network": "10.5.0.0/24", "SubnetLen": 31}, "SubnetLen", "longer than /30"),
        ({"SubnetLen": 17}, "SubnetLen", "use 18 or more"),
        ({"SubnetLen": 16}, "SubnetLen", "use 18 or more"),
        ({"Network": "10.5.0.0/29", "SubnetLen": 30}, "SubnetLen", "use 31 or more"),
        ({"SubnetMin": "10.4.255.0"}, "SubnetMin", "outside 10.5.0.0/16"),
        ({"SubnetMax": "10.6.0.0"}, "SubnetMax", "outside 10.5.0.0/16"),
        ({"SubnetMin": "10.5.1.128"}, "SubnetMin", "first address of a /24"),
        ({"SubnetMax": "10.5.1.1"}, "SubnetMax", "first address of a /24"),
        (
            {**IPV6, "IPv6Network": "fd00:10::/125"},
            "IPv6Network",
            "use a /124",
        ),
        ({**IPV6, "IPv6SubnetLen": 127}, "IPv6SubnetLen", "longer than /126"),
        ({**IPV6, "IPv6SubnetLen": 49}, "IPv6SubnetLen", "use 50 or more"),
        ({**IPV6, "IPv6SubnetMin": "fd00:11::"}, "IPv6SubnetMin", "outside fd00:10::/48"),
        ({**IPV6, "IPv6SubnetMax": "fd00:10::1"}, "IPv6SubnetMax", "first address of a /64"),
        ({"EnableIPv6": True}, "IPv6Network", "required"),
        # those that it forgot
        ({"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.8.0"}, "SubnetMin", "above SubnetMax"),
        ({"EnableIPv4": False, **IPV6}, "EnableIPv4", "IPv6-only"),
        ({"Network": "0.0.0.0/0"}, "Network", "cannot carry an overlay"),
        ({"Network": "127.5.0.0/16"}, "Network", "cannot carry an overlay"),
        ({"Network": "126.0.0.0/7"}, "Network", "cannot carry an overlay"),
        ({"Network": "224.0.0.0/8"}, "Network", "cannot carry an overlay"),
        ({"Network": "128.0.0.0/1"}, "Network", "cannot carry an overlay"),
        ({**IPV6, "IPv6Network": "ff05::/48"}, "IPv6Network", "cannot carry an overlay"),
        ({**IPV6, "IPv6Network": "::/48"}, "IPv6Network", "cannot carry an overlay"),
        ({"Backend": {"Type": "vxlan", "VNI": 0}}, "Backend.VNI", "from 1 to 16777215"),
        ({"Backend": {"Type": "vxlan", "VNI": 1 << 24}}, "Backend.VNI", "from 1 to 16777215"),
        ({"Backend": {"Type": "vxlan", "Port": 65536}}, "Backend.Port", "from 1 to 65535"),
        ({"Backend": {"Type": "vxlan", "Port": -1}}, "Backend.Port", "from 1 to 65535"),
        ({"Backend": {"Type": "vxlan", "MTU": 500}}, "Backend.MTU", "from 576 to 65535"),
        ({"Backend": {"Type": "aws-vpc"}}, "Backend.Type", "vxlan, host-gw, udp, alloc"),
        # wrong types
        ({"Network": 5}, "Network", "such as 10.5.0.0/16"),
        ({"Network": False}, "Network", "such as 10.5.0.0/16"),
        ({"Network": "10.5.0.0"}, "Network", "such as 10.5.0.0/16"),
        ({"Network": "10.5.0.0/255.255.0.0"}, "Network", "such as 10.5.0.0/16"),
        ({"Network": "10.5.0.0/33"}, "Network", "such as 10.5.0.0/16"),
        ({"Network": "fd00:10::/48"}, "Network", "not an IPv4 network"),
        ({**IPV6, "IPv6Network": "10.5.0.0/16"}, "IPv6Network", "not an IPv6 network"),
        ({**IPV6, "IPv6Network": "fd00::%eth0/48"}, "IPv6Network", "not an IPv6 network"),
        ({**IPV6, "IPv6SubnetMin": "fd00:10:0:1::%1"}, "IPv6SubnetMin", "not an IPv6 address"),
        ({"SubnetLen": "24"}, "SubnetLen", "whole number"),
        ({"SubnetLen": 24.0}, "SubnetLen", "whole number"),
        ({"SubnetLen": True}, "SubnetLen", "whole number"),
        ({"SubnetLen": -1}, "SubnetLen", "whole number"),
        ({"SubnetMin": "10.5.1.0/24"}, "SubnetMin", "not an IPv4 address"),
        ({"SubnetMin": False}, "SubnetMin", "not an IPv4 address"),
        ({"SubnetMax": []}, "SubnetMax", "not an IPv4 address"),
        ({"SubnetMax": "fd00::"}, "SubnetMax", "not an IPv4 address"),
        ({"EnableIPv6": "yes"}, "EnableIPv6", "true or false"),
        ({"EnableIPv4": 0}, "EnableIPv4", "true or false"),
        ({"Backend": "vxlan"}, "Backend", "an object"),
        ({"Backend": []}, "Backend", "an object"),
        ({"Backend": {"Type": 0.0}}, "Backend.Type", "is not one of"),
        ({"Backend": {"Type": False}}, "Backend.Type", "is not one of"),
        ({"Backend": {"Type": "vxlan", "VNI": 1.0}}, "Backend.VNI", "whole number"),
        ({"Backend": {"Type": "vxlan", "VNI": True}}, "Backend.VNI", "whole number"),
        ({"Backend": {"Type": "vxlan", "Port": False}}, "Backend.Port", "whole number"),
        ({"Backend": {"Type": "vxlan", "MTU": 0.0}}, "Backend.MTU", "whole number"),
        ({"Backend": {"Type": "vxlan", "MTU": []}}, "Backend.MTU", "whole number"),
        ({"Backend": {"Type": "vxlan", "GBP": 1}}, "Backend.GBP", "true or false"),
        ({"Backend": {"Type": "vxlan", "Learning": "no"}}, "Backend.Learning", "true or false"),
        ({"Backend": {"Type": "vxlan", "DirectRouting": 0}}, "Backend.DirectRouting", "true or"),
    ],
)
def test_a_broken_rule_is_refused_naming_the_field(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(**fields)
    assert str(caught.value).startswith(field + " ")
    assert words in str(caught.value)
    # For flannel_network, which knows them as options.
    assert caught.value.fields == (field,) + (("SubnetMax",) if words == "above SubnetMax" else ())


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '"Network"', "{", b"\xff\xfe", '{"Network":"10.5.0.0/16","x":NaN}']
    + ["[" * 100_000, '{"Network":"10.5.0.0/16"}'.encode("utf-16"), "7" * 5000],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_not_a_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidConfig, match="the network config is not"):
        parse_config(text)


def test_a_config_without_a_network_is_refused() -> None:
    for text in ("{}", '{"Network":""}', '{"Network":null}'):
        with pytest.raises(InvalidConfig, match=r"^Network is required"):
            parse_config(text)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = "Network SubnetLen SubnetMin SubnetMax EnableIPv4 EnableIPv6 IPv6Network Backend".split()


@given(st.dictionaries(st.sampled_from(FIELDS), junk), st.sampled_from(["", "10.5.0.0/16"]))
def test_any_json_object_parses_or_is_an_invalid_config(raw: dict[str, Any], network: str) -> None:
    if network:
        raw["Network"] = network
    for attempt in (lambda: config_from_dict(raw), lambda: parse_config(json.dumps(raw))):
        problem = None
        try:
            config = attempt()
        except InvalidConfig as error:
            problem = error
        if problem:
            assert problem.fields or " is not JSON" in str(problem)
        else:
            assert parse_config(config.to_json()) == config


@given(st.binary())
def test_any_bytes_parse_or_are_an_invalid_config(raw: bytes) -> None:
    try:
        parse_config(raw)
    except InvalidConfig as error:
        str(error).encode()
