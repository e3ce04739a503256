# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases: flannel's keys and values byte for byte."""

from __future__ import annotations

import ipaddress
import json

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import (
    Vtep,
    parse_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    InvalidLease,
    Lease,
    gateway,
    parse_lease,
    parse_public_ip,
    subnet_of_key,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.given import (
    FLEET,
    VXLAN,
    host_ips,
    ipv4,
    leases,
    prefixes4,
    subnets4,
    unicast_macs,
)

KEY = "10.5.94.0-24"
VALUE = VXLAN % ("1.2.3.4", "aa:bb:cc:dd:ee:ff")
DUAL_KEY = "10.5.94.0-24&fd00:10:0:45::-64"
DUAL = (
    '{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::4","BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},'
    '"BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:f0"}}'
)


# As flannel has them


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *FLEET.items(),
        (KEY, '{"PublicIP":"10.168.0.11","PublicIPv6":null,"BackendType":"host-gw"}'),
        (KEY, '{"PublicIP":"10.168.0.11","PublicIPv6":null}'),
        (DUAL_KEY, DUAL),
        (DUAL_KEY, '{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::4","BackendType":"host-gw"}'),
    ],
)
def test_a_flannelds_lease_is_read_and_written_again_byte_for_byte(name: str, value: str) -> None:
    lease = parse_lease(name, value)
    assert lease.key_name == name
    assert lease.to_json() == value
    assert not lease.host_id


def test_our_identity_stands_last_where_flannel_ignores_it() -> None:
    lease = parse_lease(KEY, VALUE)._replace(host_id="ab" * 16, hostname="röntgen")
    start = VALUE[:-1]
    assert lease.to_json().startswith(start)
    ours = json.loads(lease.to_json())["Flatnet"]
    assert ours == {"HostID": "ab" * 16, "Hostname": "röntgen"}
    assert parse_lease(KEY, lease.to_json()) == lease


@given(leases())
def test_a_lease_survives_being_written_and_read(lease: Lease) -> None:
    assert parse_lease(lease.key_name, lease.to_json()) == lease
    assert parse_lease(lease.key_name, lease.to_json().encode()) == lease
    assert subnet_of_key(lease.key_name) == lease.subnet


@given(leases(), st.integers(1), st.integers(0), st.integers(1))
def test_revisions_and_etcd_lease_are_not_content(
    lease: Lease, revision: int, etcd: int, created: int
) -> None:
    stored = parse_lease(lease.key_name, lease.to_json(), revision, etcd, created)
    assert (stored.mod_revision, stored.etcd_lease) == (revision, etcd)
    assert stored.create_revision == created
    assert stored.same_content(lease)
    assert stored.to_json() == lease.to_json()


@given(leases(), leases())
def test_leases_have_the_same_content_exactly_if_key_and_value_are_equal(
    one: Lease, other: Lease
) -> None:
    for left, right in ((one, other), (one, one._replace(mod_revision=9))):
        equal = (left.key_name, left.to_json()) == (right.key_name, right.to_json())
        assert left.same_content(right) == equal


def test_a_lease_may_lack_publicipv6_and_have_fields_of_others() -> None:
    value = '{"PublicIP":"1.2.3.4","BackendType":"host-gw","Color":"red","BackendData":null}'
    assert parse_lease(KEY, value) == Lease("10.5.94.0/24", "1.2.3.4", "host-gw")


def test_vxlan_data_without_a_vni_means_the_networks() -> None:
    value = '{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}'
    assert parse_lease(KEY, value % "aa:bb:cc:dd:ee:ff").data == Vtep(None, "aa:bb:cc:dd:ee:ff")


def test_macs_are_read_in_any_case_and_with_dashes() -> None:
    value = VXLAN % ("1.2.3.4", "AA-BB-CC-dd-ee-FF")
    assert parse_lease(KEY, value).data.mac == "aa:bb:cc:dd:ee:ff"


def test_fields_match_in_any_case_and_the_last_one_wins_as_in_go() -> None:
    value = '{"publicip":"1.1.1.1","PublicIP":"2.2.2.2","publicip":"3.3.3.3"}'
    assert parse_lease(KEY, value).public_ip == "3.3.3.3"


def test_the_owner_is_named_by_hostname_and_address() -> None:
    lease = Lease("10.5.94.0/24", "1.2.3.4")
    assert lease.owner == "1.2.3.4"
    assert lease._replace(hostname="web1").owner == "web1 (1.2.3.4)"


# Keys


@pytest.mark.parametrize(
    "name",
    ["", "/", "config", "10.5.94.0", "10.5.94.0/24", "10.5.94.0-", "-24", "10.5.94.0-24/x"]
    + ["10.5.94.0-24&", "&fd00:10:0:45::-64", "10.5.94.0-24&10.5.95.0-24", "fd00:10:0:45::-64"]
    + ["10.5.94.0-24&fd00:10:0:45::", "10.5.94.0-24&FD00:10:0:45::-64", "10.5.94.0-24\n"]
    + ["10.5.94.0-24&fd00:10:0:45:0::-64", "10.5.94.0-24&fd00:10:0:45::1-64", "10.5.94.0-024"]
    + ["10.5.94.0-24&fd00:10:0:45::-129", "10.5.94.0-24&fd00:10:0:45::-064", "10.5.94.0-33"]
    + ["10.5.94.1-24", "010.5.94.0-24", "10.5.94-24", "10.5.94.256-24", " 10.5.94.0-24"]
    + [
        "\u0661.5.94.0-24",
        "10.5.94.0-\u0662\u0664",
        "10.5.94.0-24&::ffff:10.5.94.0-120",
        "0.0.0.0-0",
    ]
    + ["127.0.0.0-8", "127.5.0.0-24", "126.0.0.0-7", "224.0.0.0-24", "224.0.0.0-3", "192.0.0.0-2"]
    + ["10.5.94.0-24&::-0", "10.5.94.0-24&ff02::-64", "10.5.94.0-24&::1-128", "10.5.94.0-24&::-8"],
)
def test_a_key_of_any_other_form_is_refused(name: str) -> None:
    with pytest.raises(InvalidLease, match=r"^subnet"):
        parse_lease(name, DUAL)


@pytest.mark.parametrize("name", ["10.5.94.7-32", "10.5.94.6-31", "10.0.0.0-8", DUAL_KEY])
def test_subnets_of_any_length_are_read(name: str) -> None:
    lease = parse_lease(name, DUAL)
    assert lease.key_name == name
    assert subnet_of_key(name) == lease.subnet


keys = st.builds(
    "{}{}{}".format, subnets4.map(lambda subnet: subnet.replace("/", "-")), st.text(), st.text()
) | st.from_regex(r"[0-9.]{0,15}-[0-9]{0,3}(&[0-9a-f:]{0,20}-[0-9]{0,3})?", fullmatch=True)


@given(keys | st.text())
def test_no_key_is_read_as_another_one(name: str) -> None:
    try:
        assert parse_lease(name, DUAL).key_name == name
    except InvalidLease:
        assert subnet_of_key(name) is None
    else:
        assert subnet_of_key(name) == parse_lease(name, DUAL).subnet


# Values


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{}", "PublicIP is missing"),
        ('{"PublicIP":null}', "PublicIP is missing"),
        ('{"PublicIP":16909060}', "PublicIP 16909060 is not an IPv4 address"),
        ('{"PublicIP":"1.2.3"}', "PublicIP '1.2.3' is not an IPv4 address"),
        ('{"PublicIP":"01.2.3.4"}', "is not an IPv4 address"),
        ('{"PublicIP":"fd00::1"}', "is not an IPv4 address"),
        ('{"PublicIP":"::ffff:1.2.3.4"}', "is not an IPv4 address"),
        ('{"PublicIP":["1.2.3.4"]}', "is not an IPv4 address"),
        ('{"PublicIP":true}', "is not an IPv4 address"),
        ('{"PublicIP":"127.0.0.1"}', "PublicIP 127.0.0.1 cannot be the address of a host"),
        ('{"PublicIP":"0.0.0.0"}', "cannot be the address of a host"),
        ('{"PublicIP":"224.0.0.1"}', "cannot be the address of a host"),
        ('{"PublicIP":"255.255.255.255"}', "cannot be the address of a host"),
        ('{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}', "PublicIPv6 '1.2.3.4' is not an IPv6"),
        ('{"PublicIP":"1.2.3.4","PublicIPv6":"::"}', "PublicIPv6 :: cannot be"),
        ('{"PublicIP":"1.2.3.4","PublicIPv6":"fe80::1%eth0"}', "is not an IPv6 address"),
        ('{"PublicIP":"1.2.3.4","PublicIPv6":"::ffff:1.2.3.4"}', "cannot be the address"),
        ('{"PublicIP":"1.2.3.4","BackendType":1}', "BackendType 1 is not printable text"),
        ('{"PublicIP":"1.2.3.4","BackendType":false}', "BackendType False is not"),
        ('{"PublicIP":"1.2.3.4","BackendType":["vxlan"]}', "BackendType"),
        ('{"PublicIP":"1.2.3.4","BackendType":"a\\u001b[31m"}', "BackendType"),
        ('{"PublicIP":"1.2.3.4","BackendType":"vxlan"}', "BackendData must be an object"),
        ('{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":[]}', "BackendData must be"),
        ('{"PublicIP":"1.2.3.4","Flatnet":"me"}', "Flatnet must be an object"),
        ('{"PublicIP":"1.2.3.4","Flatnet":{"HostID":7}}', "Flatnet.HostID 7 is not printable"),
        ('{"PublicIP":"1.2.3.4","Flatnet":{"HostID":"\\ud800"}}', "Flatnet.HostID"),
        ('{"PublicIP":"1.2.3.4","Flatnet":{"Hostname":"a\\nb"}}', "Flatnet.Hostname"),
        ('{"PublicIP":"1.2.3.4","Flatnet":{"Hostname":"%s"}}' % ("x" * 254), "Flatnet.Hostname"),
        ('{"PublicIP":"1.2.3.4","x":NaN}', "is not JSON"),
        ('{"PublicIP":"1.2.3.4","x":-Infinity}', "is not JSON"),
        ('{"PublicIP":"1.2.3.4"} {}', "is not JSON"),
        ('{"PublicIP":"1.2.3.4",}', "is not JSON"),
        ("{'PublicIP':'1.2.3.4'}", "is not JSON"),
        ('\ufeff{"PublicIP":"1.2.3.4"}', "is not JSON"),
        (b'\xef\xbb\xbf{"PublicIP":"1.2.3.4"}', "is not JSON"),
        ('{"PublicIP":"1.2.3.4"}'.encode("utf-16"), "is not JSON"),
        ('{"PublicIP":"1.2.3.4"}'.encode("utf-32"), "is not JSON"),
        (b'{"PublicIP":"1.2.3.4","x":"\xff"}', "is not JSON"),
        ("", "is not JSON"),
        (b"\0" * 16, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('"%s"' % KEY, "is not a JSON object"),
        ("1" * 5000, "is not"),
    ],
)
def test_a_value_that_is_not_flannels_is_refused_naming_key_and_field(
    value: str | bytes, words: str
) -> None:
    with pytest.raises(InvalidLease) as caught:
        parse_lease(KEY, value)
    assert str(caught.value).startswith("lease %s" % KEY)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"VNI": 1}, "BackendData.VtepMAC None is not a MAC"),
        ({"VNI": 1, "VtepMAC": 5}, "VtepMAC 5 is not a MAC"),
        ({"VNI": 1, "VtepMAC": ["aa:bb:cc:dd:ee:ff"]}, "is not a MAC"),
        ({"VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee"}, "is not a MAC"),
        ({"VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee:fg"}, "is not a MAC"),
        ({"VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee:ff\n"}, "is not a MAC"),
        ({"VNI": 1, "VtepMAC": "00:00:00:00:00:00"}, "is not a unicast MAC"),
        ({"VNI": 1, "VtepMAC": "ff:ff:ff:ff:ff:ff"}, "is not a unicast MAC"),
        ({"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}, "is not a unicast MAC"),
        ({"VNI": 0, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "BackendData.VNI 0 is not a VNI"),
        ({"VNI": -1, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "is not a VNI"),
        ({"VNI": 1 << 24, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "is not a VNI"),
        ({"VNI": True, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "VNI True is not a VNI"),
        ({"VNI": 1.0, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "VNI 1.0 is not a VNI"),
        ({"VNI": "1", "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "VNI '1' is not a VNI"),
        ({"VNI": 10**400, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "is not a VNI"),
    ],
)
def test_vxlan_data_that_cannot_reach_a_vtep_is_refused(data: object, words: str) -> None:
    fields = {"PublicIP": "1.2.3.4", "BackendType": "vxlan", "BackendData": data}
    with pytest.raises(InvalidLease, match=r"^lease 10\.5\.94\.0-24: BackendData") as caught:
        parse_lease(KEY, json.dumps(fields))
    assert words in str(caught.value)
    fields.update(BackendData=json.loads(DUAL)["BackendData"], BackendV6Data=data)
    with pytest.raises(InvalidLease, match="BackendV6Data"):
        parse_lease(DUAL_KEY, json.dumps(fields))


def test_a_dual_stack_lease_has_one_vni() -> None:
    with pytest.raises(InvalidLease, match=r"BackendV6Data.VNI differs"):
        parse_lease(DUAL_KEY, DUAL.replace('6Data":{"VNI":1', '6Data":{"VNI":2'))


@pytest.mark.parametrize("field", ["PublicIP", "BackendType", "Flatnet"])
def test_nesting_of_any_depth_is_refused(field: str) -> None:
    # Around what the decoder and what repr() can take, which differs with the version of Python.
    for depth in [*range(900, 1000), 100_000]:
        fields = {"PublicIP": '"1.2.3.4"', field: "[" * depth + "]" * depth}
        value = "{%s}" % ",".join('"%s":%s' % pair for pair in fields.items())
        with pytest.raises(InvalidLease):
            parse_lease(KEY, value)


def is_lease_or_invalid(name: str, value: str | bytes) -> None:
    """Nothing else may ever happen, and what was read has to be fit for printing and writing."""
    try:
        lease = parse_lease(name, value)
    except InvalidLease as error:
        str(error).encode()
        return
    assert lease.key_name == name
    assert parse_lease(name, lease.to_json()) == lease
    str(lease).encode()
    hash(lease)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))  # lone surrogates too
    | st.sampled_from(["vxlan", "host-gw", "1.2.3.4", "aa:bb:cc:dd:ee:ff", 10**400])
)
FIELDS = ["PublicIP", "publicip", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data"]
FIELDS += ["Flatnet", "VNI", "VtepMAC", "HostID", "Hostname"]


def objects(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=4)


anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | objects(inner), max_leaves=12
)
any_keys = st.sampled_from([KEY, DUAL_KEY]) | keys | st.text()


@given(any_keys, st.binary() | st.text(st.characters(codec=None)))
def test_any_bytes_are_a_lease_or_invalid(name: str, value: str | bytes) -> None:
    is_lease_or_invalid(name, value)


@given(any_keys, objects(anything), st.booleans())
def test_any_json_object_is_a_lease_or_invalid(name: str, value: object, escape: bool) -> None:
    is_lease_or_invalid(name, json.dumps(value, ensure_ascii=escape))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid lease with one thing or a few about it changed, fields said twice among them."""
    pairs = list(json.loads(draw(leases()).to_json()).items())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(pairs) - 1))
        name, value = pairs[place]
        change = draw(st.sampled_from(["value", "inner", "name", "again", "drop"]))
        if change == "inner" and isinstance(value, dict) and value:
            value = {**value, draw(st.sampled_from(sorted(value))): draw(anything)}
        elif change == "name":
            name = draw(st.sampled_from([name.lower(), name.upper(), *FIELDS]))
        elif change == "again":
            pairs.insert(place, (name, draw(anything)))
        else:
            value = draw(anything)
        pairs[place : place + 1] = [] if change == "drop" and len(pairs) > 1 else [(name, value)]
    return "{%s}" % ",".join("%s:%s" % (json.dumps(k), json.dumps(v)) for k, v in pairs)


@given(st.sampled_from([KEY, DUAL_KEY]), mutated())
def test_a_mutated_lease_is_a_lease_or_invalid(name: str, value: str) -> None:
    is_lease_or_invalid(name, value)


@given(leases(), st.data())
def test_a_lease_with_a_byte_changed_is_a_lease_or_invalid(
    lease: Lease, data: st.DataObject
) -> None:
    raw = bytearray(lease.to_json().encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    is_lease_or_invalid(lease.key_name, bytes(raw))


# Parts


@given(host_ips)
def test_a_hosts_address_is_read_as_it_is(address: str) -> None:
    assert parse_public_ip("public_ip", address) == address


@given(ipv4 | st.text("0123456789.", max_size=15) | st.text(st.characters(codec=None)))
def test_an_address_is_a_hosts_exactly_if_ipaddress_finds_nothing_against_it(text: str) -> None:
    try:
        address = ipaddress.IPv4Address(text)
        bad = address.is_loopback or address.is_multicast or address.is_unspecified
        usable = not bad and not address.is_reserved
    except ValueError:
        usable = False
    try:
        assert parse_public_ip("public_ip", text) == text
    except InvalidLease:
        assert not usable
    else:
        assert usable


@given(prefixes4, st.integers(0, 32))
def test_a_prefix_is_a_subnet_exactly_if_it_is_one_without_reserved_addresses(
    prefix: str, length: int
) -> None:
    address = prefix.partition("/")[0]
    for text in (prefix, "%s/%d" % (address, length)):
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError:
            expected = None
        else:
            reserved = map(ipaddress.IPv4Network, ("127.0.0.0/8", "224.0.0.0/4"))
            expected = None if any(map(network.overlaps, reserved)) else text
        assert subnet_of_key(text.replace("/", "-")) == expected


@given(unicast_macs)
def test_a_unicast_mac_is_read_as_it_is(mac: str) -> None:
    assert parse_mac("mac", mac) == mac


def test_the_gateway_is_the_first_address_of_the_subnet() -> None:
    assert gateway("10.5.94.0/24") == "10.5.94.1/24"
    assert gateway("fd00:10:0:45::/64") == "fd00:10:0:45::1/64"
