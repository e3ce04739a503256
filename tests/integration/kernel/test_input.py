# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input to the kernel's modules: an error that names the option, and nothing is touched."""

from __future__ import annotations

import importlib
import typing as t

import pytest

from tests.integration.namespace import Modules, Namespace, same

pytestmark = pytest.mark.matrix

Case = tuple[dict[str, t.Any], str]

MAC = "02:00:00:00:00:05"
ZERO = "00:00:00:00:00:00"
LONG = "a-name-too-long0"

# How Ansible starts when it refuses a value by its type; it goes on with the option. What is to be
# text has no wrong type: Ansible makes text of everything.
ANSIBLE = "argument "

# A case is what is given beside BASE, None taking an option away, and how the message starts.

BASE: dict[str, dict[str, t.Any]] = {
    "fdb_entry": {"device": "flannel.1", "mac": MAC, "dst": "172.30.1.12"},
    "neigh_entry": {"device": "flannel.1", "address": "10.5.2.0", "mac": MAC},
    "route_entry": {"device": "u0", "prefix": "10.5.2.0/24", "gateway": "172.30.1.12"},
    "bridge": {"name": "cni0"},
    "vxlan_vtep": {"local": "172.30.1.11", "device": "u0"},
}


def listed(module: str, *entries: dict[str, t.Any]) -> dict[str, t.Any]:
    """Entries in place of the single one of BASE."""
    single = dict.fromkeys(BASE[module])
    single.pop("device")
    return {**single, "entries": list(entries)}


FDB = {"mac": MAC, "dst": "172.30.1.12"}
NEIGH = {"address": "10.5.2.0", "mac": MAC}
ROUTE = {"prefix": "10.5.2.0/24", "gateway": "172.30.1.12"}

COMMON: list[Case] = [
    ({"state": "gone"}, "value of state must be one of"),
    ({"exclusive": "maybe"}, ANSIBLE + "'exclusive'"),
    ({"entries": [5]}, "Value '5' in the sub parameter field 'entries'"),
    ({"state": "absent", "exclusive": True}, "exclusive: "),
    ({"nonsense": 1}, "Unsupported parameters"),
    ({"device": ""}, "device: "),
    ({"device": LONG}, "device: "),
    ({"device": "a/b"}, "device: "),
    ({"device": [1]}, "device: '[1]' is not "),
    ({"device": "nothere0"}, "device: device nothere0 does not exist"),
]

CASES: dict[str, list[Case]] = {
    "fdb_entry": [
        *COMMON,
        ({"device": None}, "missing required arguments: device"),
        ({"device": "u0"}, "device: u0 is a veth device, not a VXLAN device"),
        ({"device": "lo"}, "device: lo is hardware, not a VXLAN device"),
        ({"mac": None}, "mac: is required, unless entries is given"),
        ({"mac": "02:00:00:00:00"}, "mac: '02:00:00:00:00' is not a MAC address"),
        ({"mac": {"a": 1}}, "mac: "),
        ({"dst": None}, "dst: is required"),
        ({"dst": "172.30.1"}, "dst: '172.30.1' is not an IP address"),
        ({"dst": "172.30.1.12/24"}, "dst: "),
        ({"dst": "0.0.0.0"}, "dst: 0.0.0.0 is no VTEP's address"),
        ({"dst": "fd30::12"}, "dst: fd30::12 is not an IPv4 address"),
        ({"dst": "fe80::1%u0"}, "dst: "),
        ({"dst": [1]}, "dst: '[1]' is not "),
        ({"mac": ZERO, "dst": None, "state": "absent"}, "dst: is required, since 00:00"),
        ({"port": 0}, "port: 0 is not from 1 to 65535"),
        ({"port": 65536}, "port: 65536 is not from 1 to 65535"),
        ({"port": "many"}, ANSIBLE + "'port'"),
        ({"vni": -1}, "vni: -1 is not from 0 to 16777215"),
        ({"vni": 1 << 24}, "vni: "),
        ({"vni": 1.5}, ANSIBLE + "'vni'"),
        ({"via": "a b"}, "via: "),
        ({"via": "nothere0"}, "via: device nothere0 does not exist"),
        ({"via": [1]}, "via: '[1]' is not "),
        ({"src_vni": 1 << 24}, "src_vni: "),
        ({"src_vni": 7}, "src_vni: works only with a device that was made with `external`"),
        ({"src_vni": "x"}, ANSIBLE + "'src_vni'"),
        ({"entries": [FDB]}, "mac: belongs into each of the entries"),
        ({"mac": None, "entries": []}, "dst: belongs into each of the entries"),
        (listed("fdb_entry", {"dst": "172.30.1.12"}), "missing required arguments: mac found in"),
        (listed("fdb_entry", FDB, {"mac": MAC}), "entries[1].dst: is required"),
        (listed("fdb_entry", FDB, {**FDB, "mac": "x"}), "entries[1].mac: 'x' is not a MAC"),
        (listed("fdb_entry", FDB, FDB), "entries[1].mac: "),
        (
            listed(
                "fdb_entry", FDB, {**FDB, "mac": "02:00:00:00:00:06"}, {**FDB, "dst": "172.30.1.13"}
            ),
            "entries[2].mac: ",
        ),
        (listed("fdb_entry", {**FDB, "mac": ZERO}, {**FDB, "mac": ZERO}), "entries[1].mac: "),
        # The same, as the kernel sees it.
        (
            listed("fdb_entry", {**FDB, "mac": ZERO}, {**FDB, "mac": ZERO, "port": 8472}),
            "entries[1].mac: ",
        ),
        ({**listed("fdb_entry", FDB, FDB), "state": "absent"}, "entries[1].mac: "),
        (listed("fdb_entry", {**FDB, "vni": 1 << 24}), "entries[0].vni: "),
        (listed("fdb_entry", {**FDB, "port": 0}), "entries[0].port: "),
        (
            listed("fdb_entry", {**FDB, "via": "nothere0"}),
            "entries[0].via: device nothere0 does not exist",
        ),
        (listed("fdb_entry", {**FDB, "src_vni": 7}), "entries[0].src_vni: "),
        (listed("fdb_entry", {**FDB, "extra": 7}), "Unsupported parameters"),
    ],
    "neigh_entry": [
        *COMMON,
        ({"device": None}, "missing required arguments: device"),
        ({"address": None}, "address: is required, unless entries is given"),
        ({"address": "10.5.2.0/24"}, "address: '10.5.2.0/24' is not an IP address"),
        ({"address": "224.0.0.1"}, "address: 224.0.0.1 is no neighbour's address"),
        ({"address": "::"}, "address: :: is no neighbour's address"),
        ({"address": [1]}, "address: '[1]' is not "),
        ({"mac": None}, "mac: is required"),
        ({"mac": "5"}, "mac: '5' is not a MAC address"),
        ({"mac": ZERO}, "mac: 00:00:00:00:00:00 is not a unicast MAC address"),
        ({"mac": "01:00:5e:00:00:05"}, "mac: 01:00:5e:00:00:05 is not a unicast MAC address"),
        ({"mac": [1]}, "mac: '[1]' is not "),
        ({"entries": [NEIGH]}, "address: belongs into each of the entries"),
        (listed("neigh_entry", {"mac": MAC}), "missing required arguments: address found in"),
        (listed("neigh_entry", NEIGH, {"address": "10.5.3.0"}), "entries[1].mac: is required"),
        (listed("neigh_entry", NEIGH, NEIGH), "entries[1].address: "),
        (
            listed("neigh_entry", NEIGH, {**NEIGH, "mac": "02:00:00:00:00:06"}),
            "entries[1].address: ",
        ),
        (listed("neigh_entry", {**NEIGH, "address": "x"}), "entries[0].address: "),
    ],
    "route_entry": [
        *COMMON,
        ({"device": None}, "device: is required"),
        ({"prefix": None}, "prefix: is required, unless entries is given"),
        ({"prefix": "10.5.2.0"}, "prefix: '10.5.2.0' is not a prefix; did you mean 10.5.2.0/32?"),
        (
            {"prefix": "10.5.2.1/24"},
            "prefix: '10.5.2.1/24' is not a prefix; did you mean 10.5.2.0/24?",
        ),
        ({"prefix": "10.5.2.0/33"}, "prefix: '10.5.2.0/33' is not a prefix"),
        ({"prefix": "default"}, "prefix: 'default' is not a prefix"),
        ({"prefix": [1]}, "prefix: '[1]' is not "),
        ({"gateway": "172.30.1"}, "gateway: '172.30.1' is not an IP address"),
        ({"gateway": "224.0.0.1"}, "gateway: 224.0.0.1 is no gateway's address"),
        ({"prefix": "fd10::/64"}, "gateway: 172.30.1.12 is IPv4, fd10::/64 is IPv6"),
        ({"gateway": [1]}, "gateway: '[1]' is not "),
        ({"onlink": True, "gateway": None}, "onlink: "),
        ({"onlink": "perhaps"}, ANSIBLE + "'onlink'"),
        ({"mtu": 67}, "mtu: 67 is not from 68 to 65520"),
        ({"mtu": 65521}, "mtu: 65521 is not from 68 to 65520"),
        ({"prefix": "fd10::/64", "gateway": "fd30::12", "mtu": 1279}, "mtu: 1279 is not from 1280"),
        ({"mtu": "big"}, ANSIBLE + "'mtu'"),
        ({"src": "here"}, "src: 'here' is not an IP address"),
        ({"src": "fd30::11"}, "src: fd30::11 is not an IPv4 address"),
        ({"src": [1]}, "src: '[1]' is not "),
        ({"metric": -1}, "metric: -1 is not from 0 to 4294967295"),
        ({"metric": 1 << 32}, "metric: "),
        ({"metric": "low"}, ANSIBLE + "'metric'"),
        ({"table": 0}, "table: 0 is not from 1 to 4294967295"),
        ({"table": "main"}, ANSIBLE + "'table'"),
        ({"protocol": 2}, "protocol: 2 is not from 3 to 255"),
        ({"protocol": 256}, "protocol: 256 is not from 3 to 255"),
        ({"protocol": "bird"}, ANSIBLE + "'protocol'"),
        ({"entries": [ROUTE]}, "prefix: belongs into each of the entries"),
        ({"prefix": None, "entries": []}, "gateway: belongs into each of the entries"),
        (
            listed("route_entry", {"gateway": "172.30.1.12"}),
            "missing required arguments: prefix found in",
        ),
        (listed("route_entry", ROUTE, ROUTE), "entries[1].prefix: "),
        (listed("route_entry", ROUTE, {**ROUTE, "gateway": "172.30.1.13"}), "entries[1].prefix: "),
        (listed("route_entry", ROUTE, {**ROUTE, "prefix": "10.6.0.1/24"}), "entries[1].prefix: "),
        (
            listed("route_entry", {**ROUTE, "device": "u1"}),
            "entries[0].device: u1 differs from the option device",
        ),
        (
            {**listed("route_entry", {**ROUTE, "device": "nothere0"}), "device": None},
            "entries[0].device: device nothere0 does not exist",
        ),
        ({**listed("route_entry", ROUTE), "device": None}, "entries[0].device: is required"),
        (listed("route_entry", {"prefix": "10.7.0.0/24", "onlink": True}), "entries[0].onlink: "),
        # Equal once the default metric is known for what it is.
        (
            listed(
                "route_entry",
                {"prefix": "fd10::/64", "gateway": "fd30::12"},
                {"prefix": "fd10::/64", "gateway": "fd30::12", "metric": 1024},
            ),
            "entries[1].prefix: ",
        ),
    ],
    "bridge": [
        ({"state": "gone"}, "value of state must be one of"),
        ({"nonsense": 1}, "Unsupported parameters"),
        ({"name": None}, "missing required arguments: name"),
        ({"name": ""}, "name: '' is not a device name"),
        ({"name": LONG}, "name: "),
        ({"name": "cni 0"}, "name: "),
        ({"name": ".."}, "name: "),
        ({"name": [1]}, "name: '[1]' is not "),
        ({"name": "u0"}, "name: device u0 exists and is a veth device"),
        ({"addresses": ["10.5.1.1"]}, "addresses[0]: '10.5.1.1' is not an address with its prefix"),
        ({"addresses": ["10.5.1.1/24", "x/24"]}, "addresses[1]: 'x/24' is not an address"),
        ({"addresses": ["10.5.1.1/33"]}, "addresses[0]: "),
        ({"addresses": ["224.0.0.1/24"]}, "addresses[0]: 224.0.0.1/24 is multicast"),
        ({"addresses": ["0.0.0.0/24"]}, "addresses[0]: 0.0.0.0/24 is unspecified"),
        ({"addresses": ["127.0.0.2/8"]}, "addresses[0]: 127.0.0.2/8 is loopback"),
        ({"addresses": ["fe80::1/64"]}, "addresses[0]: fe80::1/64 is link-local"),
        (
            {"addresses": ["10.5.1.1/24", "10.5.1.1/24"]},
            "addresses[1]: 10.5.1.1/24 is addresses[0] too",
        ),
        (
            {"addresses": ["10.5.1.1/24", "10.5.1.1/16"]},
            "addresses[1]: 10.5.1.1/16 is addresses[0] too",
        ),
        ({"addresses": {"a": 1}}, ANSIBLE + "'addresses'"),
        ({"former": ["10.5.2.1"]}, "former[0]: '10.5.2.1' is not an address with its prefix"),
        (
            {"addresses": ["10.5.1.1/24"], "former": ["10.5.1.1/24"]},
            "former: 10.5.1.1/24 is listed in addresses",
        ),
        ({"exclusive": True}, "exclusive: needs the option addresses"),
        ({"exclusive": "maybe"}, ANSIBLE + "'exclusive'"),
        (
            {"exclusive": True, "addresses": [], "state": "absent"},
            "exclusive: goes with state=present only",
        ),
        ({"mtu": 67}, "mtu: 67 is not from 68 to 65535"),
        ({"mtu": 65536}, "mtu: 65536 is not from 68 to 65535"),
        ({"mtu": "big"}, ANSIBLE + "'mtu'"),
        ({"mac": "x"}, "mac: 'x' is not a MAC address"),
        ({"mac": ZERO}, "mac: 00:00:00:00:00:00 is not a unicast MAC address"),
        ({"mac": "03:00:00:00:00:01"}, "mac: 03:00:00:00:00:01 is not a unicast MAC address"),
        ({"mac": [1]}, "mac: '[1]' is not "),
        ({"stp": "maybe"}, ANSIBLE + "'stp'"),
        ({"force": "maybe"}, ANSIBLE + "'force'"),
        ({"host_id": "a\nb"}, "host_id "),
    ],
    "vxlan_vtep": [
        ({"state": "gone"}, "value of state must be one of"),
        ({"nonsense": 1}, "Unsupported parameters"),
        ({"name": LONG}, "name: "),
        ({"name": "a:b"}, "name: "),
        ({"name": [1]}, "name: '[1]' is not "),
        ({"name": "u0"}, "device: u0 is the device itself"),
        ({"name": "u1"}, "name: device u1 exists and is a veth device, not a vxlan"),
        ({"id": 10000000}, "name: 'flannel.10000000' is not a device name"),
        ({"id": 0}, "id: 0 is not from 1 to 16777215"),
        ({"id": 1 << 24}, "id: 16777216 is not from 1 to 16777215"),
        ({"id": 0, "state": "absent"}, "id: 0 is not from 1 to 16777215"),
        ({"id": "one"}, ANSIBLE + "'id'"),
        ({"dstport": 0}, "dstport: 0 is not from 1 to 65535"),
        ({"dstport": 65536}, "dstport: "),
        ({"dstport": "x"}, ANSIBLE + "'dstport'"),
        ({"local": "172.30.1"}, "local: '172.30.1' is not an IP address"),
        ({"local": "172.30.1.12"}, "local: 172.30.1.12 is not an address of this host"),
        ({"local": [1]}, "local: '[1]' is not "),
        (
            {"device": "nothere0"},
            "device: nothere0 does not exist on this host, which has cni0, ",
        ),
        ({"device": "a/b"}, "device: "),
        ({"device": "flannel.1"}, "device: flannel.1 is the device itself"),
        ({"device": [1]}, "device: '[1]' is not "),
        ({"group": "239.1.1"}, "group: '239.1.1' is not an IP address"),
        ({"group": "172.30.1.12"}, "group: 172.30.1.12 is not a multicast address"),
        ({"group": [1]}, "group: '[1]' is not "),
        ({"name": "new0", "device": None, "group": "239.1.1.1"}, "group: needs device"),
        ({"device": "", "group": "239.1.1.1"}, "group: needs device"),
        (
            {"group": "ff05::1"},
            "local: 172.30.1.11 and the group ff05::1 are of different families",
        ),
        ({"ttl": 256}, "ttl: 256 is not from 0 to 255"),
        ({"ttl": "inherit"}, ANSIBLE + "'ttl'"),
        ({"tos": -1}, "tos: -1 is not from 0 to 255"),
        ({"tos": "x"}, ANSIBLE + "'tos'"),
        ({"ageing": -1}, "ageing: -1 is not from 0 to 4294967295"),
        ({"ageing": 1 << 32}, "ageing: "),
        ({"ageing": "x"}, ANSIBLE + "'ageing'"),
        *[
            ({name: "maybe"}, f"{ANSIBLE}'{name}'")
            for name in "learning proxy l2miss l3miss rsc gbp udpcsum sole".split()
            + "udp6zerocsumtx udp6zerocsumrx".split()
        ],
        ({"mtu": 67}, "mtu: 67 is not from 68 to 65535"),
        ({"mtu": 1451}, "mtu: 1451 is not possible: packets leave by u0, whose MTU is 1500"),
        ({"local": "fd30::11", "mtu": 1431}, "mtu: 1431 is not possible"),
        ({"device": "", "mtu": 1451}, "mtu: 1451 is not possible: packets leave by u0"),
        ({"mtu": "big"}, ANSIBLE + "'mtu'"),
        ({"mac": "x"}, "mac: 'x' is not a MAC address"),
        ({"mac": ""}, "mac: '' is not a MAC address"),
        ({"mac": "01:00:5e:00:00:05"}, "mac: 01:00:5e:00:00:05 is not a unicast MAC address"),
        ({"mac": [1]}, "mac: '[1]' is not "),
        ({"host_id": "a\nb"}, "host_id "),
        ({"master": "flannel.1"}, "master: flannel.1 is the device itself"),
        ({"master": "a b"}, "master: "),
        ({"master": "nothere0"}, "master: device nothere0 does not exist"),
        ({"master": [1]}, "master: '[1]' is not "),
        ({"addresses": ["10.5.1.0"]}, "addresses[0]: '10.5.1.0' is not an address with its prefix"),
        ({"addresses": ["10.5.1.0/32", "10.5.1.0/24"]}, "addresses[1]: "),
        ({"addresses": {"a": 1}}, ANSIBLE + "'addresses'"),
        ({"local": "10.5.1.0"}, "local: 10.5.1.0 is not an address of this host's underlay"),
    ],
}


@pytest.fixture(scope="module")
def host(modules: Modules) -> t.Iterator[Namespace]:
    """A kernel that holds something of everything, and that nothing may change."""
    with Namespace(modules) as ns:
        ns.sh(
            "ip link add flannel.1 type vxlan id 1 local 172.30.1.11 dev u0 dstport 8472",
            "ip address add 10.5.1.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            "bridge fdb add 02:00:00:00:00:01 dev flannel.1 dst 172.30.1.9 self permanent",
            "ip neigh add 10.5.9.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
            "ip route add 10.5.9.0/24 via 10.5.9.0 dev flannel.1 onlink proto 110",
            "ip link add cni0 type bridge",
            "ip link set cni0 up",
            "ip address add 10.5.1.1/24 dev cni0",
        )
        yield ns


@pytest.fixture(scope="module")
def untouched(host: Namespace) -> t.Iterator[None]:
    """Compares once for all: what a case changed is found out, if not which one."""
    before = host.state()
    yield
    same(before, host.state())


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("module", CASES)
def test_bad_input_is_refused_by_an_error_that_names_the_option(
    host: Namespace, module: str
) -> None:
    wrong = []
    for given, start in CASES[module]:
        args = {**BASE[module], **given}
        args = {name: value for name, value in args.items() if value is not None}
        for check in (False, True):
            result = host.run(module, check=check, **args)
            if check and "device nothere0" in start:
                continue  # an earlier task may be going to make it
            if not result.get("failed") or not result["msg"].startswith(start):
                wrong.append((given, start, result.get("msg", "accepted")))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("module", CASES)
def test_every_option_has_such_a_case(module: str) -> None:
    name = "ansible_collections.flatnet.overlay.plugins.modules." + module
    options = set(importlib.import_module(name).ARGUMENTS) | {"state"}
    assert options <= {option for given, _start in CASES[module] for option in given}
