# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the overlay's subnets would hide what a host uses otherwise."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    config_from_dict,
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.subnet_env import (
    render,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.overlap import (
    NetworkOverlaps,
    Surroundings,
    check,
    conflicts,
    observe,
    remembered,
)

from tests.unit.given import CONFIG, fleet


def network(text: str, kind: str = "vxlan", **fields: object) -> NetworkConfig:
    return config_from_dict({"Network": text, "Backend": {"Type": kind}, **fields})


OVERLAY = network("10.5.0.0/16")
ETH0 = Address("eth0", "192.0.2.11/24")
LINK = Route("192.0.2.0/24", "eth0", protocol=2)
DEFAULT = Route("0.0.0.0/0", "eth0", "192.0.2.1", protocol=3)


NOTHING: t.Mapping[str, str] = {}


def host(*more: Address | Route, needed: t.Mapping[str, str] = NOTHING) -> Surroundings:
    entries = [ETH0, LINK, DEFAULT, *more]
    return Surroundings(
        [each for each in entries if isinstance(each, Address)],
        [each for each in entries if isinstance(each, Route)],
        needed,
    )


@pytest.mark.parametrize(
    ("config", "surroundings", "expected"),
    [
        (network("192.0.0.0/16"), host(), "eth0 has 192.0.2.11/24"),
        (OVERLAY, host(Address("wg0", "10.5.200.1/32")), "wg0 has 10.5.200.1/32"),
        # The link is wider than the overlay: its other hosts would be hidden.
        (OVERLAY, host(Address("eth1", "10.0.0.7/8")), "eth1 has 10.0.0.7/8"),
        (OVERLAY, host(Route("10.5.128.0/17", "eth0", "192.0.2.9")), "eth0 goes to 10.5.128.0/17"),
        (OVERLAY, host(Route("10.5.0.0/16", "eth0", "192.0.2.9")), "eth0 goes to 10.5.0.0/16"),
        (OVERLAY, host(Route("10.5.9.0/24", "wg0")), "a route of wg0 goes to 10.5.9.0/24"),
        (OVERLAY, host(Route("0.0.0.0/0", "ppp0", "10.5.9.9")), "10.5.9.9 is the gateway of ppp0"),
        (OVERLAY, host(needed={"10.5.9.9": "a resolver"}), "10.5.9.9 is a resolver"),
        # Never leased, but with udp the whole network is routed into the overlay.
        (network("10.5.0.0/16", "udp"), host(needed={"10.5.0.9": "etcd"}), "10.5.0.9 is etcd"),
    ],
)
def test_what_would_be_hidden_is_named(
    config: NetworkConfig, surroundings: Surroundings, expected: str
) -> None:
    with pytest.raises(NetworkOverlaps) as caught:
        check(config, surroundings, "cni0")
    for words in (expected, config.network, "SubnetMin"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "surroundings"),
    [
        (OVERLAY, host()),
        # What the overlay has made, or a flanneld, or whoever moved in before with its subnet.
        (OVERLAY, host(Address("cni0", "10.5.72.1/24"), Route("10.5.72.0/24", "cni0"))),
        (OVERLAY, host(Address("docker0", "10.5.94.1/24"), Route("10.5.94.0/24", "docker0"))),
        (OVERLAY, host(Address("flannel.1", "10.5.94.0/32"), Route("10.5.9.0/24", "flannel.1"))),
        (OVERLAY, host(Address("flannel0", "10.5.94.0/32"), Route("10.5.0.0/16", "flannel0"))),
        (OVERLAY, host(Route("10.5.9.0/24", "eth0", "192.0.2.12"))),
        (OVERLAY, host(Route("10.5.94.7/32", "veth7"))),
        (OVERLAY, host(needed={"10.5.94.1": "a resolver"})),
        # Less specific than any subnet.
        (OVERLAY, host(Route("10.0.0.0/8", "eth0", "192.0.2.9"))),
        (OVERLAY, host(Route("10.5.0.0/16", "(blackhole)"))),
        # Subnets that nobody leases.
        (network("10.5.0.0/16", SubnetMin="10.5.16.0"), host(Address("eth1", "10.5.0.7/24"))),
        (OVERLAY, host(needed={"10.5.0.9": "etcd"})),
    ],
)
def test_what_is_the_overlays_own_or_out_of_its_way_is_no_conflict(
    config: NetworkConfig, surroundings: Surroundings
) -> None:
    assert conflicts(config, surroundings, "cni0", ["10.5.94.0/24"]) == []


def test_this_machine_can_be_looked_at() -> None:
    seen = observe(["http://etcd.example.com:2379", "https://192.0.2.2:2379"])
    assert seen.needed["192.0.2.2"] == "an address of etcd"
    assert all(isinstance(each, Route) for each in seen.routes)


def test_the_subnet_in_use_is_that_of_subnet_env(tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    assert remembered(str(file)) is None
    for text, subnet in [
        ("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n", "10.5.72.0/24"),
        ('FLANNEL_SUBNET="10.5.72.1/24"', "10.5.72.0/24"),
        ("", None),
        ("FLANNEL_SUBNET\n", None),
        ("FLANNEL_SUBNET=\n", None),
        ("FLANNEL_SUBNET=x/y\n", None),
        ("FLANNEL_SUBNET=fd00::1/64\n", None),
    ]:
        file.write_text(text)
        assert remembered(str(file)) == subnet


def test_what_is_written_names_the_subnet_again(tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    for lease in fleet():
        file.write_text(render(parse_config(CONFIG), lease, 1450, False))
        assert remembered(str(file)) == lease.subnet
