# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flannel_subnet and flannel_subnet_info on hosts of the lab, with a real etcd."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import (
    vtep_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.identity import (
    host_id,
)

from tests.integration.overlay import ETCD_CASES, PREFIX, Overlay, host_gw_lease, vxlan_lease
from tests.lab import Host, Lab

MODULE = "flannel_subnet"
VXLAN = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
HOST_GW = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}'


@pytest.fixture(scope="module")
def two_hosts(lab_factory: t.Callable[..., Lab]) -> Lab:
    return lab_factory(hosts=2)


@pytest.fixture
def overlay(two_hosts: Lab) -> Overlay:
    overlay = Overlay(two_hosts)
    overlay.clean()
    overlay.etcd.put(PREFIX + "/config", VXLAN)
    return overlay


def identity(host: Host) -> str:
    return host_id(host.machine_id)


def flatnet(host: Host) -> str:
    return ',"Flatnet":{"HostID":"%s","Hostname":"%s"}}' % (identity(host), host.name)


def subnet_env(host: Host) -> Path:
    """What tells which subnet the host uses."""
    file = host.run / "flannel" / "subnet.env"
    file.parent.mkdir(exist_ok=True)
    return file


def add_interface(host: Host, name: str, *addresses: str) -> None:
    host.exec(["ip", "link", "add", name, "type", "bridge"], check=True)
    for address in addresses:
        host.exec(["ip", "addr", "add", address, "dev", name], check=True)
    host.exec(["ip", "link", "set", name, "up"], check=True)


@pytest.mark.matrix
def test_a_vxlan_lease_is_flannels_with_our_field_last(overlay: Overlay) -> None:
    done = overlay.converge(MODULE)
    lease = done["lease"]
    mac = vtep_mac(identity(overlay.host), 1)
    ((name, value),) = overlay.leases().items()
    assert value == vxlan_lease("172.21.0.11", mac)[:-1] + flatnet(overlay.host)
    assert lease == {
        "subnet": name.replace("-", "/"),
        "key": f"{PREFIX}/subnets/{name}",
        "value": json.loads(value),
        "public_ip": "172.21.0.11",
        "backend_type": "vxlan",
        "vni": 1,
        "vtep_mac": mac,
        "host_id": identity(overlay.host),
        "hostname": "host1",
        "permanent": True,
    }
    assert done["diff"] == {"before": "", "after": f"{lease['key']} permanent\n{value}\n"}
    assert done["transactions"] == 1
    first = name.split(".0-")[0]
    assert (done["gateway"], done["vtep_address"]) == (first + ".1/24", first + ".0/32")
    assert done["underlay"] == {
        "interface": "eth0",
        "address": "172.21.0.11/16",
        "ip": "172.21.0.11",
        "mtu": 1500,
        "why": "default route",
    }
    assert done["config"]["Backend"] == {"Type": "vxlan", "VNI": 1, "Port": 8472}
    assert done["backend"]["device"] == "flannel.1"
    assert done["subnet_env"] == (
        "FLANNEL_NETWORK=10.5.0.0/16\n"
        f"FLANNEL_SUBNET={first}.1/24\n"
        "FLANNEL_MTU=1450\n"
        "FLANNEL_IPMASQ=false\n"
    )

    gone = overlay.converge(MODULE, state="absent")
    assert gone["lease"] == lease
    assert gone["diff"] == {"before": done["diff"]["after"], "after": ""}
    assert list(overlay.keys()) == [PREFIX + "/config"]
    assert overlay.unchanged(MODULE, state="absent")["lease"] == {}


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("config", "value", "mtu"),
    [
        (HOST_GW, host_gw_lease("172.21.0.11"), 1500),
        (HOST_GW.replace("host-gw", "udp"), '{"PublicIP":"172.21.0.11","PublicIPv6":null}', 1472),
        (HOST_GW.replace("host-gw", "alloc"), '{"PublicIP":"172.21.0.11","PublicIPv6":null}', 1500),
        (
            VXLAN.replace('"vxlan"', '"VXLAN","VNI":7,"MTU":1400,"Port":4789'),
            vxlan_lease("172.21.0.11", "%s", 7),
            1350,
        ),
    ],
)
def test_the_lease_of_each_backend(overlay: Overlay, config: str, value: str, mtu: int) -> None:
    overlay.etcd.put(PREFIX + "/config", config)
    done = overlay.converge(MODULE, ipmasq=True)
    if "%s" in value:
        value %= vtep_mac(identity(overlay.host), 7)
    own = flatnet(overlay.host)
    if '"udp"' in config:
        own = own.replace("}}", ',"Vector":1}}')
    assert list(overlay.leases().values()) == [value[:-1] + own]
    assert done["mtu"] == mtu
    assert done["subnet_env"].endswith(f"FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n")


def test_a_lease_says_whether_the_hosts_relay_takes_vectors(overlay: Overlay) -> None:
    overlay.etcd.put(PREFIX + "/config", HOST_GW.replace("host-gw", "udp"))
    bare = {"PublicIP": overlay.host.address, "PublicIPv6": None}
    # Also one that a flanneld wrote, which the host keeps.
    overlay.put_lease("10.5.94.0/24", json.dumps(bare))
    done = overlay.converge(MODULE)
    assert (done["lease"]["subnet"], done["mtu"]) == ("10.5.94.0/24", 1472)
    assert (done["backend"]["device"], done["backend"]["port"]) == ("flannel0", 8285)
    assert done["lease"]["value"]["Flatnet"]["Vector"] == 1
    assert '"Vector":1}' in done["diff"]["after"]
    silent = overlay.converge(MODULE, vector=False)["lease"]
    assert (silent["subnet"], "Vector" in silent["value"]["Flatnet"]) == ("10.5.94.0/24", False)
    # Of other backends' leases it is no part.
    overlay.etcd.put(PREFIX + "/config", HOST_GW)
    assert "Vector" not in overlay.converge(MODULE)["lease"]["value"]["Flatnet"]


def test_options_of_the_lease(overlay: Overlay) -> None:
    done = overlay.converge(
        MODULE,
        subnet="10.5.94.0/24",
        vtep_mac="0A-00-00-00-00-01",
        host_id="asset-4711",
        hostname="rack1",
        public_ip="203.0.113.9",
        ttl=300,
    )
    assert overlay.leases() == {
        "10.5.94.0-24": vxlan_lease("203.0.113.9", "0a:00:00:00:00:01")[:-1]
        + ',"Flatnet":{"HostID":"asset-4711","Hostname":"rack1"}}'
    }
    assert not done["lease"]["permanent"]
    assert "etcd lease with a TTL" in done["diff"]["after"]
    # From a TTL to permanent is a change, and it shows.
    same = {"host_id": "asset-4711", "hostname": "rack1", "public_ip": "203.0.113.9"}
    done = overlay.converge(MODULE, vtep_mac="0a:00:00:00:00:01", **same)
    assert "TTL" in done["diff"]["before"]
    assert "permanent" in done["diff"]["after"]


def test_the_underlay_by_every_way_to_name_it(overlay: Overlay) -> None:
    host = overlay.host
    add_interface(host, "eth1", "198.51.100.7/24", "198.51.101.7/24")
    add_interface(host, "stor0", "203.0.113.7/24")
    # The overlay's own devices are none, whatever they match.
    add_interface(host, "ethcni", "10.5.94.1/24")
    subnet_env(host).write_text("FLANNEL_SUBNET=10.5.94.1/24\n")
    for options, expected in [
        ({}, ("eth0", "172.21.0.11/16", "default route")),
        ({"interface": "eth1"}, ("eth1", "198.51.100.7/24", "name eth1")),
        ({"interface": "198.51.101.7"}, ("eth1", "198.51.101.7/24", "address 198.51.101.7")),
        ({"interface": "203.0.113.0/24"}, ("stor0", "203.0.113.7/24", "address 203.0.113.0/24")),
        ({"interface_regex": "st.*"}, ("stor0", "203.0.113.7/24", "pattern st.*")),
        ({"interface_regex": "eth[1-9]"}, ("eth1", "198.51.100.7/24", "pattern eth[1-9]")),
        ({"can_reach": "203.0.113.99"}, ("stor0", "203.0.113.7/24", "route to 203.0.113.99")),
        ({"can_reach": "8.8.8.8"}, ("eth0", "172.21.0.11/16", "route to 8.8.8.8")),
    ]:
        done = overlay.run(MODULE, check=True, **options)
        found = done["underlay"]
        assert (found["interface"], found["address"], found["why"]) == expected
        assert done["lease"]["public_ip"] == expected[1].partition("/")[0]
    overlay.refused(MODULE, "interface", "eth9", "eth1 198.51.100.7/24", interface="eth9")
    overlay.refused(MODULE, "more than one", "fits eth0, eth1", interface_regex="eth.*")
    overlay.refused(MODULE, "not a regular expression", interface_regex="eth(")
    overlay.refused(MODULE, "interface", "192.0.2.0/24", interface="192.0.2.0/24")
    # Without a default route: one is taken, of several none.
    host.exec(["ip", "route", "del", "default"], check=True)
    try:
        overlay.refused(MODULE, "more than one", "eth0, eth1, stor0")
        overlay.refused(MODULE, "no interface", "route to 8.8.8.8", can_reach="8.8.8.8")
        for name in ("eth1", "stor0"):
            host.exec(["ip", "link", "del", name], check=True)
        assert "only interface" in overlay.run(MODULE, check=True)["underlay"]["why"]
    finally:
        host.exec(["ip", "route", "add", "default", "via", "172.21.0.1"], check=True)


def test_a_network_that_is_connected_here_otherwise_is_refused(overlay: Overlay) -> None:
    # Two subnets, and the host itself is connected to a part of one.
    config = (
        '{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","SubnetMax":"10.5.%d.0",'
        '"Backend":{"Type":"vxlan"}}'
    )
    overlay.etcd.put(PREFIX + "/config", config % 1)
    overlay.host.exec(["ip", "addr", "add", "10.5.1.200/25", "dev", "eth0"], check=True)
    try:
        texts = ("the subnets of 10.5.0.0/22, 10.5.0.0 to 10.5.1.255", "eth0 has 10.5.1.200/25")
        overlay.refused(MODULE, *texts, interface="172.21.0.0/16")
        # Left out by SubnetMax it is in nobody's way.
        overlay.etcd.put(PREFIX + "/config", config % 0)
        done = overlay.converge(MODULE, interface="172.21.0.0/16")
    finally:
        overlay.host.exec(["ip", "addr", "del", "10.5.1.200/25", "dev", "eth0"], check=True)
    assert done["lease"]["subnet"] == "10.5.0.0/24"


@pytest.mark.matrix
def test_a_changed_address_keeps_the_subnet(overlay: Overlay) -> None:
    subnet = overlay.run(MODULE)["lease"]["subnet"]
    add_interface(overlay.host, "eth1", "198.51.100.7/24")
    done = overlay.converge(MODULE, interface="eth1")
    assert (done["lease"]["subnet"], done["lease"]["public_ip"]) == (subnet, "198.51.100.7")
    assert '"PublicIP":"172.21.0.11"' in done["diff"]["before"]
    assert '"PublicIP":"198.51.100.7"' in done["diff"]["after"]
    assert len(overlay.leases()) == 1


def test_the_subnet_of_subnet_env_is_preferred(overlay: Overlay) -> None:
    file = subnet_env(overlay.host)
    file.write_text("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.77.1/24\n")
    assert overlay.converge(MODULE)["lease"]["subnet"] == "10.5.77.0/24"
    overlay.run(MODULE, state="absent")
    overlay.put_lease("10.5.77.0/24", vxlan_lease("192.0.2.9", "4a:be:f1:a6:ee:c3"))
    assert overlay.converge(MODULE)["lease"]["subnet"] != "10.5.77.0/24"
    overlay.run(MODULE, state="absent")
    file.write_bytes(b"FLANNEL_SUBNET=\xff\xfe\n")
    overlay.run(MODULE)
    overlay.run(MODULE, state="absent")
    other = overlay.host.run / "other.env"
    other.write_text('FLANNEL_SUBNET="10.5.78.1/24"\n')
    done = overlay.run(MODULE, subnet_file="/run/other.env")
    assert done["lease"]["subnet"] == "10.5.78.0/24"
    # It is but a preference.
    other.write_text("FLANNEL_SUBNET=10.5.79.1/24\n")
    overlay.unchanged(MODULE, subnet_file="/run/other.env")


def test_a_flannelds_lease_is_adopted_and_another_hosts_refused(overlay: Overlay) -> None:
    overlay.put_lease("10.5.7.0/24", vxlan_lease("172.21.0.11", "4a:be:f1:a6:ee:c3"))
    assert overlay.converge(MODULE)["lease"]["subnet"] == "10.5.7.0/24"
    two = overlay.hosts[1]
    message = overlay.refused(MODULE, host=two, public_ip="172.21.0.11")
    for text in ("public IP 172.21.0.11 of host2", "host1 (172.21.0.11)", "takeover"):
        assert text in message
    overlay.refused(MODULE, "a clone of", host=two, host_id=identity(overlay.host))
    done = overlay.converge(MODULE, host=two, public_ip="172.21.0.11", takeover=True)
    assert done["lease"]["subnet"] == "10.5.7.0/24"
    assert 'Hostname":"host1' in done["diff"]["before"]


def test_check_mode_goes_on_from_what_earlier_tasks_would_have_written(overlay: Overlay) -> None:
    overlay.etcd.delete(PREFIX + "/config")
    overlay.refused(MODULE, "no network config", "flannel_network")
    config = overlay.run(
        "flannel_network", check=True, network="10.9.0.0/22", backend={"type": "host-gw"}
    )["config"]
    first = overlay.run(MODULE, check=True, planned={"config": config})
    assert first["lease"]["subnet"].startswith("10.9.")
    assert first["mtu"] == 1500
    second = overlay.run(
        MODULE,
        check=True,
        host=overlay.hosts[1],
        planned={"config": config, "leases": [first["lease"]]},
    )
    assert second["lease"]["subnet"] not in ("", first["lease"]["subnet"])
    assert overlay.keys() == {}
    # The real run gives the same.
    overlay.run("flannel_network", network="10.9.0.0/22", backend={"type": "host-gw"})
    for host, told in zip(overlay.hosts, (first, second)):
        done = overlay.run(MODULE, host=host)
        assert (done["lease"], done["diff"]) == (told["lease"], told["diff"])
    # Out of check mode it counts for nothing.
    overlay.unchanged(MODULE, planned={"leases": []})


def test_a_broken_config_or_a_dual_stack_one_is_refused(overlay: Overlay) -> None:
    for text, part in [
        ("{", "is not JSON"),
        ('{"Network":"10.5.0.0/16","SubnetLen":99}', "SubnetLen"),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"gre"}}', "Backend.Type"),
        (
            '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}',
            "EnableIPv6",
        ),
        (VXLAN.replace('"vxlan"', '"vxlan","MTU":9000'), "Backend.MTU 9000"),
    ]:
        overlay.etcd.put(PREFIX + "/config", text)
        overlay.refused(MODULE, part)


def test_every_bad_option_is_named_and_nothing_is_changed(overlay: Overlay) -> None:
    overlay.run(MODULE, host=overlay.hosts[1])
    taken = next(iter(overlay.leases())).replace("-", "/")
    overlay.each_refused(
        MODULE,
        {},
        [
            ("subnet", "10.5.94.0", "not a prefix"),
            ("subnet", "10.5.94.7/24", "did you mean 10.5.94.0/24"),
            ("subnet", "10.6.0.0/24", "is not a /24 between SubnetMin"),
            ("subnet", "10.5.94.0/25", "is not a /24 between SubnetMin"),
            ("subnet", "fd00::/64", "is not a /24"),
            ("subnet", taken, "overlaps the lease of"),
            ("vtep_mac", "0a:00:00", "not a MAC address"),
            ("vtep_mac", "01:00:5e:00:00:01", "not a unicast MAC"),
            ("vtep_mac", "00:00:00:00:00:00", "not a unicast MAC"),
            ("public_ip", "fd00::1", "not an IPv4 address"),
            ("public_ip", "127.0.0.1", "cannot be the address of a host"),
            ("public_ip", "host1", "not an IP address"),
            ("can_reach", "etcd.example.com", "not an IP address"),
            ("interface", "192.0.2.0/99", ""),
            ("interface", "eth7", "eth0 172.21.0.11/16"),
            ("interface_regex", "[", "not a regular expression"),
            ("host_id", "two\nlines", "not printable"),
            ("hostname", "x" * 300, "not printable"),
            ("ttl", 4, "not from 5"),
            ("ttl", -1, "not from 5"),
            ("ttl", 9000000001, "not from 5"),
            ("ttl", "long", "unable to convert to int"),
            ("takeover", "perhaps", "unable to convert to bool"),
            ("move", "perhaps", "unable to convert to bool"),
            ("bridge", "a/b", "bridge"),
            ("ipmasq", "perhaps", "unable to convert to bool"),
            ("state", "gone", "must be one of"),
            *ETCD_CASES,
        ],
    )
    overlay.each_refused(MODULE, {"interface": "eth0"}, [("can_reach", "192.0.2.1", "exclusive")])
    overlay.each_refused(MODULE, {"state": "absent"}, [("subnet", "10.5.94.0/24", "absent")])
    for planned, part in [
        ({"config": {"Network": "x"}}, "planned.config"),
        ({"leases": [{"key": "x"}]}, "planned.leases[0]"),
        ({"leases": [{"key": "/a/10.5.9.0-24", "value": {}}]}, "planned.leases[0]"),
    ]:
        result = overlay.attempt(MODULE, check=True, planned=planned)
        assert result["failed"]
        assert part in result["msg"]


def test_info_tells_all_leases_and_what_is_none(overlay: Overlay) -> None:
    leases = [overlay.run(MODULE, host=host)["lease"] for host in overlay.hosts]
    overlay.put_lease("10.5.7.0/24", host_gw_lease("192.0.2.7"))
    overlay.put_lease("10.5.8.0/24", "{")
    overlay.put_lease("nonsense", "{}")
    found = overlay.run("flannel_subnet_info", check=True)
    assert not found["changed"]
    assert found["config"]["Network"] == "10.5.0.0/16"
    by_key = {lease["key"]: lease for lease in found["leases"]}
    for lease in leases:
        # The same, and at which revision the key was created.
        assert by_key[lease["key"]].items() >= lease.items()
    assert by_key[PREFIX + "/subnets/10.5.7.0-24"]["host_id"] == ""
    assert len(by_key) == 3
    assert found["unused"] == found["warnings"]
    assert [text.split("'")[1] for text in found["unused"]] == [
        PREFIX + "/subnets/10.5.8.0-24",
        PREFIX + "/subnets/nonsense",
    ]
    assert found["revision"] > 0
    overlay.each_refused("flannel_subnet_info", {}, ETCD_CASES)
    overlay.etcd.delete(PREFIX + "/config")
    overlay.refused("flannel_subnet_info", "no network config", "flannel_network")


def test_garbage_does_not_hinder_a_lease_and_is_left_alone(overlay: Overlay) -> None:
    overlay.etcd.put(
        PREFIX + "/config",
        '{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","SubnetMax":"10.5.1.0"}',
    )
    overlay.put_lease("10.5.0.0/24", "{")
    assert overlay.converge(MODULE)["lease"]["subnet"] == "10.5.1.0/24"
    message = overlay.refused(MODULE, "no free /24", host=overlay.hosts[1])
    assert "2 subnets, 2 of them taken by 2 leases" in message
    assert overlay.leases()["10.5.0.0-24"] == "{"
