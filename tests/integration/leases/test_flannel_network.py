# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flannel_network on a host of the lab, with a real etcd."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.overlay import ETCD_CASES, PREFIX, Overlay, host_gw_lease, vxlan_lease
from tests.lab import Lab

MODULE = "flannel_network"
GOOD: dict[str, t.Any] = {"network": "10.5.0.0/16", "backend": {"type": "vxlan"}}
WRITTEN = '{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1,"Port":8472}}'


@pytest.fixture(scope="module")
def small_lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    return lab_factory(hosts=1)


@pytest.fixture
def overlay(small_lab: Lab) -> Overlay:
    overlay = Overlay(small_lab)
    overlay.clean()
    return overlay


def config(overlay: Overlay) -> str | None:
    return overlay.etcd.get(PREFIX + "/config")


@pytest.mark.matrix
def test_written_changed_and_removed_as_check_mode_said(overlay: Overlay) -> None:
    done = overlay.converge(MODULE, **GOOD)
    assert config(overlay) == WRITTEN
    assert done["config"] == json.loads(WRITTEN)
    assert done["diff"] == {"before": "", "after": json.dumps(json.loads(WRITTEN), indent=2) + "\n"}

    other = {**GOOD, "subnet_len": 26, "subnet_min": "10.5.16.0", "subnet_max": "10.5.31.192"}
    other["backend"] = {"type": "vxlan", "vni": 7, "port": 4789, "mtu": 1400, "gbp": True}
    done = overlay.converge(MODULE, **other)
    assert config(overlay) == (
        '{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.16.0","SubnetMax":"10.5.31.192",'
        '"Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true}}'
    )
    assert '"VNI": 1' in done["diff"]["before"]
    assert '"VNI": 7' in done["diff"]["after"]

    done = overlay.converge(MODULE, state="absent")
    assert done["config"] == {}
    assert config(overlay) is None
    assert done["diff"]["after"] == ""


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (
            {"network": "10.5.3.7/20", "backend": {"type": "host-gw"}},
            '{"Network":"10.5.0.0/20","SubnetLen":24,"Backend":{"Type":"host-gw"}}',
        ),
        (
            {"network": "10.5.0.0/26", "backend": {"type": "udp"}},
            '{"Network":"10.5.0.0/26","SubnetLen":28,"Backend":{"Type":"udp","Port":8285}}',
        ),
        (
            {
                "network": "10.5.0.0/16",
                "enable_ipv6": True,
                "ipv6_network": "fd00:10::/48",
                "backend": {"direct_routing": True, "learning": True},
            },
            '{"Network":"10.5.0.0/16","SubnetLen":24,"EnableIPv6":true,'
            '"IPv6Network":"fd00:10::/48","IPv6SubnetLen":64,"Backend":{"Type":"vxlan",'
            '"VNI":1,"Port":8472,"Learning":true,"DirectRouting":true}}',
        ),
        (
            {"network": "10.5.0.0/16", "backend": {"type": "alloc"}},
            '{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"alloc"}}',
        ),
    ],
)
def test_every_backend_is_written_as_flannel_reads_it(
    overlay: Overlay, options: dict[str, t.Any], written: str
) -> None:
    overlay.converge(MODULE, **options)
    assert config(overlay) == written


@pytest.mark.parametrize(
    "text",
    [
        '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}',
        '{ "network": "10.5.200.1/16", "BACKEND": { "TYPE": "VXLAN", "vni": 1 } }',
        '{"network":"10.5.0.0/16","subnetlen":24,"subnetMin":"10.5.1.0","subnetMax":"10.5.255.0",'
        '"EnableIPv4":true,"Backend":{"type":"vxlan","port":8472,"directrouting":false,"MTU":0}}',
        '{"Network":"10.5.0.0/16","Comment":"ours","Backend":{"Type":"vxlan","Unknown":[1]}}',
    ],
)
def test_what_means_the_same_stays_as_it_is_spelled(overlay: Overlay, text: str) -> None:
    overlay.etcd.put(PREFIX + "/config", text)
    overlay.unchanged(MODULE, **GOOD)
    assert config(overlay) == text


@pytest.mark.parametrize("text", ["{", "[]", '{"Network":"10.5.0.0/31"}', "\\xff", '""'])
def test_a_broken_config_is_replaced_with_a_warning(overlay: Overlay, text: str) -> None:
    overlay.etcd.put(PREFIX + "/config", text)
    planned = overlay.run(MODULE, check=True, **GOOD)
    assert config(overlay) == text
    done = overlay.run(MODULE, **GOOD)
    for result in (planned, done):
        (warning,) = result["warnings"]
        assert "the config in etcd is not usable and is replaced" in warning
        assert result["changed"]
        assert result["diff"]["before"] == text + "\n"
    assert config(overlay) == WRITTEN


def test_leases_are_not_left_outside_the_network(overlay: Overlay) -> None:
    overlay.run(MODULE, **GOOD)
    overlay.put_lease("10.5.94.0/24", host_gw_lease("192.0.2.7"))
    overlay.put_lease("10.5.95.0/24", vxlan_lease("192.0.2.8", "4a:be:f1:a6:ee:c3"))
    overlay.put_lease("10.7.95.0/24", vxlan_lease("192.0.2.9", "4a:be:f1:a6:ee:c4"))
    for network in ("10.6.0.0/16", "10.5.0.0/18"):
        text = "network: %s would leave leases outside (there are 2: " % network
        text += "10.5.94.0/24 of 192.0.2.7"
        for force, move in ((False, False), (True, False), (False, True)):
            more = {**GOOD, "network": network, "force": force, "move": move}
            overlay.refused(MODULE, text, "set force and move", **more)
    overlay.refused(
        MODULE,
        "cannot be removed, since hosts hold leases (there are 3",
        "set force",
        state="absent",
    )
    # What is outside already is no reason not to change what has nothing to do with it.
    overlay.converge(MODULE, **{**GOOD, "network": "10.0.0.0/8", "subnet_len": 24})

    other = {**GOOD, "network": "10.6.0.0/16", "force": True, "move": True}
    overlay.converge(MODULE, **other)
    overlay.converge(MODULE, state="absent", force=True)
    assert len(overlay.leases()) == 3


@pytest.mark.parametrize(
    "change",
    [{"subnet_len": 26}, {"subnet_min": "10.5.95.0"}, {"subnet_max": "10.5.93.0"}],
    ids=["length", "min", "max"],
)
def test_leases_that_would_not_fit_are_named_and_may_stay(
    overlay: Overlay, change: dict[str, t.Any]
) -> None:
    overlay.run(MODULE, **GOOD)
    overlay.put_lease("10.5.94.0/24", host_gw_lease("192.0.2.7"))
    texts = ("there are 1: 10.5.94.0/24 of 192.0.2.7", "set force", "move (move)")
    overlay.refused(MODULE, next(iter(change)), *texts, **GOOD, **change)
    # A role's user knows these as variables.
    names = {"force": "flatnet_network_force", "move": "flatnet_move"}
    texts = ("set flatnet_network_force;", "move (flatnet_move)")
    overlay.refused(MODULE, *texts, option_names=names, **GOOD, **change)
    overlay.converge(MODULE, **GOOD, **change, force=True)
    # What does not fit now is no reason against the next change, the way back above all.
    overlay.converge(MODULE, **GOOD)
    assert list(overlay.leases()) == ["10.5.94.0-24"]


def test_a_network_that_this_host_uses_otherwise_is_refused(overlay: Overlay) -> None:
    for network in ("172.21.0.0/16", "172.21.64.0/18", "172.16.0.0/12"):
        texts = ("network: ", network, "eth0 has 172.21.0.11/16")
        overlay.refused(MODULE, *texts, network=network)
    # What runs already is not questioned by a run that changes nothing.
    overlay.etcd.put(PREFIX + "/config", WRITTEN.replace("10.5.0.0", "172.21.0.0"))
    overlay.unchanged(MODULE, **{**GOOD, "network": "172.21.0.0/16"})


def test_leases_that_were_outside_before_do_not_hinder_other_changes(overlay: Overlay) -> None:
    overlay.run(MODULE, **GOOD)
    overlay.put_lease("10.7.95.0/24", vxlan_lease("192.0.2.9", "4a:be:f1:a6:ee:c4"))
    overlay.converge(MODULE, network="10.5.0.0/16", backend={"type": "vxlan", "mtu": 1400})


def test_another_backend_under_leases_is_warned_of(overlay: Overlay) -> None:
    overlay.run(MODULE, **GOOD)
    assert (
        overlay.run(MODULE, True, network="10.5.0.0/16", backend={"type": "host-gw"})["warnings"]
        == []
    )
    overlay.put_lease("10.5.94.0/24", vxlan_lease("192.0.2.7", "4a:be:f1:a6:ee:c3"))
    done = overlay.converge(MODULE, network="10.5.0.0/16", backend={"type": "host-gw"})
    (warning,) = done["warnings"]
    assert "the backend changes from vxlan to host-gw under 1 leases" in warning


def test_nothing_is_removed_where_nothing_is(overlay: Overlay) -> None:
    assert overlay.unchanged(MODULE, state="absent")["config"] == {}


def test_every_bad_option_is_named_and_nothing_is_written(overlay: Overlay) -> None:
    cases: list[tuple[str, t.Any, str]] = [
        ("network", None, "required"),
        ("network", "", "required"),
        ("network", "10.5.0.0", "is not an IPv4 network"),
        ("network", "10.5.0.0/33", "is not an IPv4 network"),
        ("network", "fd00::/48", "is not an IPv4 network"),
        ("network", "0.0.0.0/0", "cannot carry an overlay"),
        ("network", "127.0.0.0/8", "cannot carry an overlay"),
        ("network", "224.0.0.0/8", "cannot carry an overlay"),
        ("network", "10.5.0.0/29", "use a /28"),
        ("subnet_len", "many", "unable to convert to int"),
        ("subnet_len", 31, "longer than /30"),
        ("subnet_len", 17, "fewer than 4 subnets"),
        ("subnet_len", -1, "not a whole number"),
        ("subnet_len", 0, "0"),
        ("subnet_min", "10.6.0.0", "outside 10.5.0.0/16"),
        ("subnet_min", "10.5.1.7", "not the first address of a /24"),
        ("subnet_min", "high", "not an IPv4 address"),
        ("subnet_max", "10.6.0.0", "outside 10.5.0.0/16"),
        ("subnet_max", "10.5.0.0", "subnet_max: SubnetMin 10.5.1.0 is above SubnetMax"),
        ("enable_ipv6", "perhaps", "unable to convert to bool"),
        ("enable_ipv6", True, "ipv6_network: is required with enable_ipv6"),
        ("ipv6_network", "fd00::/48", "needs enable_ipv6"),
        ("ipv6_subnet_len", 64, "needs enable_ipv6"),
        ("ipv6_subnet_min", "fd00::", "needs enable_ipv6"),
        ("ipv6_subnet_max", "fd00::", "needs enable_ipv6"),
        ("backend.type", "ipip", "must be one of"),
        ("backend.vni", 0, "out of range"),
        ("backend.vni", 1 << 24, "from 1 to 16777215"),
        ("backend.vni", "one", "unable to convert to int"),
        ("backend.port", 65536, "from 1 to 65535"),
        ("backend.port", 0, "0"),
        ("backend.mtu", 575, "from 576"),
        ("backend.mtu", 65536, "to 65535"),
        ("backend.mtu", 0, "0"),
        ("backend.gbp", "perhaps", "unable to convert to bool"),
        ("backend.learning", 7, "unable to convert to bool"),
        ("backend.direct_routing", "x", "unable to convert to bool"),
        ("backend.speed", 7, "Unsupported parameters"),
        ("force", "perhaps", "unable to convert to bool"),
        ("move", "perhaps", "unable to convert to bool"),
        ("state", "gone", "must be one of"),
        *ETCD_CASES,
    ]
    overlay.each_refused(MODULE, {"network": "10.5.0.0/16"}, cases)
    v6 = {**GOOD, "enable_ipv6": True, "ipv6_network": "fd00:10::/48"}
    overlay.each_refused(
        MODULE,
        v6,
        [
            ("ipv6_network", "10.6.0.0/16", "is not an IPv6 network"),
            ("ipv6_network", "ff00::/48", "cannot carry an overlay"),
            ("ipv6_subnet_len", 127, "longer than /126"),
            ("ipv6_subnet_len", 49, "fewer than 4 subnets"),
            ("ipv6_subnet_min", "fd00:11::", "outside fd00:10::/48"),
            ("ipv6_subnet_max", "fd00:10::1", "not the first address of a /64"),
            ("ipv6_subnet_max", "fd00:10::", "above IPv6SubnetMax"),
        ],
    )
    for kind, options in {
        "host-gw": {"vni": 1, "port": 8472, "mtu": 1400, "gbp": True, "learning": True},
        "udp": {"vni": 1, "gbp": False, "direct_routing": True},
        "alloc": {"port": 8285, "mtu": 1400},
    }.items():
        backend = {"type": kind}
        text = "the %s backend has no such field" % kind
        overlay.each_refused(
            MODULE,
            {"network": "10.5.0.0/16", "backend": backend},
            [("backend." + name, value, text) for name, value in options.items()],
        )
