# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad luck: machines made from one image, which say that they are one machine."""

from __future__ import annotations

import json

import pytest

from tests.integration.overlay import vxlan_lease
from tests.integration.programs import Program, Programs
from tests.lab.waiting import wait

SILENT = """
table inet silent {
    chain input {
        type filter hook input priority 0;
        tcp dport { 1, 22 } drop
    }
}
"""


@pytest.fixture
def clones(programs: Programs) -> tuple[Program, Program, Program]:
    """The first of three hosts runs; the second has its machine-id and its name; the third is a
    peer."""
    first, clone, other = programs.begin()
    programs.delete("10.5.201.0-24")
    first.start()
    other.start()
    programs.settle([first, other])
    lease = programs.leases()[first.own.name]["Flatnet"]
    clone.configure(choice={"host_id": lease["HostID"], "hostname": lease["Hostname"]})
    return first, clone, other


def test_a_clone_does_not_take_the_lease_of_a_machine_that_runs(
    programs: Programs, clones: tuple[Program, Program, Program]
) -> None:
    """Neither when it starts nor later do two machines write one lease in turn."""
    first, clone, other = clones
    leases = programs.leases()
    clone.start()
    wait(lambda: "clone of the other" in clone.errors())
    for each in (first, other):
        programs.saved(each)
        assert each.told("errors") == []
    assert programs.leases() == leases
    # Somebody wrote the clone's address there all the same: the first says so, and goes on.
    before = first.dump()
    taken = first.own._replace(public_ip=clone.host.address)
    programs.join(taken)
    wait(lambda: "clone of the other" in first.errors())
    revision = programs.inside(programs.client.get, "x").revision
    programs.saved(first)
    assert first.dump() == before
    assert programs.inside(programs.client.get, "x").revision == revision + 1


def test_clones_that_do_not_see_each_other_end_their_fight(
    programs: Programs, clones: tuple[Program, Program, Program]
) -> None:
    """Their firewalls drop what is not for the overlay: each takes the other for gone, and the
    lease for its own. They would write to etcd in turn for ever, and all hosts would follow."""
    first, clone, _other = clones
    for each in (first, clone):
        each.host.exec(["nft", "-f", "-"], stdin=SILENT, check=True)
    try:
        clone.start()
        wait(lambda: "again and again" in first.errors() + clone.errors(), "the end of it")
        # Whoever wrote last has it, and no more is written.
        for each in (first, clone):
            programs.saved(each)
        leases = programs.leases()
        revision = programs.inside(programs.client.get, "x").revision
        for each in (first, clone):
            programs.saved(each)
        assert programs.leases() == leases
        assert programs.inside(programs.client.get, "x").revision == revision + 2
        assert "clone of the other" in first.errors() + clone.errors()
    finally:
        for each in (first, clone):
            each.host.exec(["nft", "delete", "table", "inet", "silent"], check=True)


def test_a_machine_whose_address_changed_keeps_its_lease(
    programs: Programs, clones: tuple[Program, Program, Program]
) -> None:
    """The same lease, but nobody has the former address any more."""
    first, moved, _other = clones
    own = first.own
    first.kill()
    first.ip(f"address del {first.host.address}/16 dev eth0")
    try:
        moved.start()
        wait(lambda: programs.leases()[own.name]["PublicIP"] == moved.host.address)
    finally:
        first.ip(f"address add {first.host.address}/16 dev eth0")


def test_a_clone_that_got_an_identity_goes_where_the_playbook_moves_it(
    programs: Programs, clones: tuple[Program, Program, Program]
) -> None:
    """It was copied whole, with its state, and has got another machine-id only. So it goes on with
    the subnet of the first, until it is moved. Nothing then brings the former address back."""
    first, clone, _other = clones
    programs.saved(first)
    clone.configure(choice={"host_id": "another"}, check_interval=3600)
    clone.state.write_bytes(first.state.read_bytes())
    clone.start()
    wait(lambda: "overlaps the lease of 10.5.200.0/24" in clone.errors())
    assert "10.5.200.1/24" in clone.ip("address show dev cni0")
    value = json.loads(vxlan_lease(clone.host.address, "aa:bb:ff:00:01:01"))
    value["Flatnet"] = {"HostID": "another", "Hostname": "clone"}
    programs.put("10.5.150.0-24", json.dumps(value))
    wait(lambda: clone.told("subnet") == "10.5.150.0/24", "the clone at its own lease")
    # With another MAC of its own the kernel forgets all neighbours: they are there again at once.
    wait(lambda: clone.told("errors") == [], "the end of the error")
    assert "refuses" not in clone.said()
    assert "inet 10.5.150.1/24" in clone.ip("address show dev cni0")
    assert "10.5.200.1" not in clone.ip("address show dev cni0")
    for each in (first, clone):
        programs.reaches(each, [peer for peer in programs.peers() if peer.name != each.own.name])


def test_a_machine_is_no_clone_of_itself(
    programs: Programs, clones: tuple[Program, Program, Program]
) -> None:
    """Its link came back with its two addresses in another order. It still answers at the former
    first one, from the other: the kernel never sends from the second one of a prefix by itself."""
    first, _clone, _other = clones
    own = first.own
    first.kill()
    first.ip(f"address del {first.host.address}/16 dev eth0")
    first.ip("address add 172.21.9.9/16 dev eth0")
    first.ip(f"address add {first.host.address}/16 dev eth0")
    try:
        first.start()
        wait(lambda: first.told("public_ip") == "172.21.9.9" or first.errors(), "a lease")
        assert first.told("errors") == []
        assert programs.leases()[own.name]["PublicIP"] == "172.21.9.9"
    finally:
        first.ip("address flush dev eth0 scope global")
        first.ip(f"address add {first.host.address}/16 dev eth0")
