# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one write to the network's config in etcd does to running hosts: nothing, but it is told."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op

from tests.integration.modules import run_module
from tests.integration.overlay import PREFIX, vxlan_lease
from tests.integration.programs import NETWORK, SUBNETS, Pinging, Program, Programs, peer, reached
from tests.lab.waiting import wait

CONFIG = PREFIX + "/config"
# Peers on both sides of a /17.
PEERS = [peer(40), peer(41), peer(150)]


def config(network: str = "10.5.0.0/16", kind: str = "vxlan", **fields: t.Any) -> str:
    backend = {"Type": kind, **fields.pop("backend", {})}
    return json.dumps({"Network": network, "SubnetMin": "10.5.0.0", "Backend": backend, **fields})


@pytest.fixture(scope="module")
def built(programs: Programs) -> Programs:
    programs.started(check_interval=1)
    programs.add_pods()
    assert programs.pods_answer()
    return programs


@pytest.fixture
def fleet(built: Programs) -> t.Iterator[Programs]:
    built.join(*PEERS)
    built.settle()
    yield built
    built.inside(built.client.put, CONFIG, NETWORK)
    for each in built.all:
        if not each.running:
            each.start()
    built.clear()
    built.settle()


def told(program: Program) -> str:
    """The error about the config."""
    errors = program.told("errors", [])
    return next((each["text"] for each in errors if each["what"] == "config"), "")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (config("10.6.0.0/16", SubnetMin="10.6.0.0"), "is outside the network"),
        # The subnets of these hosts are inside it, that of a peer is not.
        (config("10.5.128.0/17", SubnetMin="10.5.128.0"), "2 peers would be outside the network"),
        (config("10.5.0.0/17"), "is outside the network"),
        (config(kind="udp"), "lease is for the backend vxlan, the network's is udp"),
        (config(kind="host-gw"), "lease is for the backend vxlan, the network's is host-gw"),
        (config(kind="alloc"), "lease is for the backend vxlan, the network's is alloc"),
        (config(backend={"VNI": 7}), "lease is for VNI 1, the network's is 7"),
        (config(backend={"MTU": 9000}), "Backend.MTU 9000 of the network is more than"),
        (
            config(EnableIPv6=True, IPv6Network="fd00:10::/48"),
            "the network's config has EnableIPv6",
        ),
        (config("172.16.0.0/12", SubnetMin="172.16.0.0"), "is outside the network"),
        ("{", "is not usable"),
        ("[" * 5000, "is not usable"),
        (None, "etcd has no network config"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_config_that_hosts_cannot_go_over_to_takes_no_peer_away(
    fleet: Programs, written: str | None, reason: str
) -> None:
    """A writer of the config, or an administrator who slips: another network, a smaller one,
    another backend, garbage, none at all. Data planes stay, peers are followed, and status says
    why."""
    program = fleet.all[0]
    before = [each.dump() for each in fleet.all]
    leases = fleet.leases()
    said = program.said().count("goes on under the former")
    pinging = Pinging(fleet.lab)
    if written is None:
        fleet.inside(fleet.client.delete, CONFIG)
    else:
        fleet.inside(fleet.client.put, CONFIG, written)
    for each in fleet.all:
        wait(lambda each=each: reason in told(each), told(each) or reason)  # type: ignore[misc]
        assert "goes on under the former config of the network, 10.5.0.0/16 over vxlan" in told(
            each
        )
        assert "run the playbook on this host" in told(each)
    assert [each.dump() for each in fleet.all] == before
    # It goes on with its work: joins, leaves, drift.
    fleet.join(peer(151))
    fleet.settle()
    fleet.leave(peer(151))
    assert pinging.lost() == []
    program.ip("route flush proto 110")
    fleet.settle()
    assert [each.dump() for each in fleet.all] == before
    # Nobody has touched a lease for it, and status counts what is reached.
    assert fleet.leases() == leases
    wait(lambda: program.told("peers") == len(leases) - 1, "the peers")
    assert "flatnet_config_waits 1" in (program.host.run / "flatnet/flatnet.prom").read_text()
    # A new start knows the former config from the disk, and so does a boot.
    program.kill()
    program.start()
    wait(lambda: reason in told(program), "the error of a new process")
    assert program.dump() == before[0]
    # Said once by each of the two processes, however often they looked.
    assert program.said().count("goes on under the former") <= said + 2
    fleet.inside(fleet.client.put, CONFIG, NETWORK)
    for each in fleet.all:
        wait(lambda each=each: not told(each), "the end of the error")  # type: ignore[misc]
        assert each.dump() == before[fleet.all.index(each)]
    assert program.told("errors") == []


def test_a_boot_under_another_config_brings_the_former_one_back(fleet: Programs) -> None:
    """The same when the host boots, with etcd and without."""
    program = fleet.all[0]
    fleet.inside(fleet.client.put, CONFIG, config("10.6.0.0/16", SubnetMin="10.6.0.0"))
    wait(lambda: told(program), "the error")
    before = reached(program.host)
    program.kill()
    fleet.lab.reboot(program.host)
    assert program.run("restore").returncode == 0
    assert reached(program.host) == before
    program.start()
    wait(lambda: told(program), "the error")
    assert reached(program.host) == before
    assert program.run("once").returncode == 0
    assert reached(program.host) == before


@pytest.mark.parametrize(
    "written",
    [
        config("10.4.0.0/15", SubnetLen=24, SubnetMin="10.4.0.0"),
        config(SubnetLen=26),
        config(SubnetMin="10.5.90.0", SubnetMax="10.5.100.0"),
        config(backend={"DirectRouting": True}),
    ],
)
def test_what_leaves_all_leases_in_the_network_is_gone_over_to_at_once(
    fleet: Programs, written: str
) -> None:
    """Where nothing stands in the way there is no waiting; and who was leased a subnet that the
    network does not lease any more is still reached, by all."""
    before = [each.dump() for each in fleet.all]
    fleet.inside(fleet.client.put, CONFIG, written)
    pinging = Pinging(fleet.lab)
    listings = [each.told("listings") for each in fleet.all]
    for each, number in zip(fleet.all, listings):
        wait(lambda each=each, n=number: each.told("listings") >= n)  # type: ignore[misc]
        wait(lambda each=each: each.told("updated") and told(each) == "")  # type: ignore[misc]
    if "DirectRouting" not in written:
        fleet.settle()
        kept = [line for line in before[0] if line.startswith("10.5.")]
        assert [line for line in fleet.all[0].dump() if line.startswith("10.5.")] == kept
    assert fleet.pods_answer()
    assert pinging.lost() == []
    for each in fleet.all:
        assert each.told("errors") == []


def test_hosts_go_over_without_peers_that_nobody_moves(fleet: Programs) -> None:
    """Bad luck: the network becomes smaller, and of hosts that are gone leases are left outside.
    What a run of the playbook does with that is final, and not undone again and again."""
    program = fleet.all[0]
    smaller = config("10.5.128.0/17", SubnetMin="10.5.128.0")
    for dummy in range(2):
        fleet.inside(fleet.client.put, CONFIG, smaller)
        wait(lambda: "2 peers would be outside the network" in told(program), "the error")
        assert program.told("network") == "10.5.0.0/16"
        fleet.reaches(program, fleet.peers())
        done = run_module(
            program.host, "flannel_peers", {"etcd_endpoints": list(fleet.etcd.endpoints)}
        )
        assert (done["failed"], done["changed"]) == (False, True)
        wait(lambda: program.told("network") == "10.5.128.0/17", "the smaller network")
        assert told(program) == ""
        inside = [each for each in fleet.peers() if each not in PEERS[:2]]
        fleet.reaches(program, inside)
        # Not so the others, where it has not run.
        assert "2 peers would be outside" in told(fleet.all[1])
        # Back, and there is nothing in the way of it.
        fleet.inside(fleet.client.put, CONFIG, NETWORK)
        wait(lambda: program.told("network") == "10.5.0.0/16", "the network as it was")
        fleet.reaches(program, fleet.peers())


def test_hosts_go_over_as_soon_as_their_lease_does(fleet: Programs) -> None:
    """The playbook's part: it moves one host's lease after the other."""
    fleet.inside(fleet.client.put, CONFIG, config(backend={"VNI": 7}))
    for each in fleet.all:
        wait(lambda each=each: told(each), "the error")  # type: ignore[misc]
    owns = [each.own for each in fleet.all]
    for program, own in zip(fleet.all, owns):
        value = json.loads(fleet.inside(fleet.client.get, SUBNETS + own.name).kvs[0].value)
        value["BackendData"]["VNI"] = 7
        fleet.txn(Op.put(SUBNETS + own.name, json.dumps(value)))
        wait(lambda program=program: program.told("device") == "flannel.7")  # type: ignore[misc]
        assert told(program) == ""
    for program in fleet.all:
        for own in owns:
            if own.public_ip != program.host.address:
                route = f"{own.subnet} via {own.subnet[:-3]} dev flannel.7"
                wait(lambda p=program, r=route: r in p.ip("route"), route)  # type: ignore[misc]
        assert program.own.subnet in [each.subnet for each in owns]
    # Back, for the tests after this.
    fleet.inside(fleet.client.put, CONFIG, NETWORK)
    for own in owns:
        fleet.put(own.name, vxlan_lease(own.public_ip, own.mac))
    fleet.settle()
    for program in fleet.all:
        program.ip("link del flannel.7")
