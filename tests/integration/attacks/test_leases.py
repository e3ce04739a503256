# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on running hosts by those who can write leases, and what one lease can do to others."""

from __future__ import annotations

import typing as t

import pytest

from tests.integration.overlay import PREFIX, host_gw_lease, vxlan_lease
from tests.integration.programs import HOST_GW, Peer, Program, Programs, peer
from tests.lab.waiting import wait

POOL = (
    '{"Network":"10.5.0.0/16","SubnetMin":"10.5.%d.0","SubnetMax":"10.5.254.0",'
    '"Backend":{"Type":"vxlan"}}'
)
# Addresses that a host needs, in subnets of the network that nobody has.
RESOLVER, SPARE_ETCD, CONTROLLER, CLOCK = (
    "10.5.150.53",
    "10.5.151.9",
    "10.5.152.7",
    "10.5.153.1",
)


@pytest.fixture
def fleet(programs: Programs) -> t.Iterator[Programs]:
    """Subnets from 10.5.100.0 on."""
    programs.started(POOL % 100, check_interval=1)
    yield programs
    programs.end()


@pytest.fixture
def program(fleet: Programs) -> Program:
    return fleet.all[0]


def routes(program: Program) -> str:
    """IPv4's: those of IPv6 come by themselves when duplicate address detection is over."""
    return program.ip("-4 route show table all")


def unused(program: Program, subnet: str) -> str:
    """The reason that the status gives for not using a lease."""
    named = "lease %s of " % subnet
    return next((each for each in program.told("unused", []) if each.startswith(named)), "")


def test_subnets_that_the_network_does_not_lease_draw_no_packets(
    fleet: Programs, program: Program
) -> None:
    """A writer of leases: a /32 below the pool, which is some server's address behind a gateway; a
    /24 below the pool; one address, and half, of another host's subnet; a /23 of the pool."""
    before = routes(program)
    victim = fleet.all[1].own
    bad = ["10.5.9.2-32", "10.5.9.0-24", "10.5.255.0-24", "10.5.160.0-23", "10.5.161.0-25"]
    bad += [victim.name.replace(".0-24", end) for end in (".9-32", ".0-25", ".128-25")]
    for number, name in enumerate(bad):
        fleet.put(name, vxlan_lease("172.21.9.%d" % (number + 1), "aa:bb:cc:dd:01:%02x" % number))
    fleet.join(peer(120))
    wait(lambda: "10.5.120.0/24" in routes(program), "the good one")
    for name in bad:
        subnet = name.replace("-", "/")
        assert subnet.partition("/")[0] + "/" not in routes(program).replace(victim.subnet, "")
        wait(lambda subnet=subnet: unused(program, subnet), subnet)  # type: ignore[misc]
        assert "is not a /24 between SubnetMin 10.5.100.0 and" in unused(program, subnet)
    fleet.leave(peer(120))
    wait(lambda: routes(program) == before, "all as before")


def test_what_was_leased_under_an_older_config_is_reached_and_newer_is_not(
    fleet: Programs, program: Program
) -> None:
    """A writer of leases cannot pass for one who was there before the config was changed: etcd's
    revisions say who was."""
    old, late = peer(110), peer(111)
    fleet.join(old)
    # Any subnet below 10.5.140.0 is none of the network's any more.
    fleet.inside(fleet.client.put, PREFIX + "/config", POOL % 140)
    fleet.join(late, peer(150))
    reached = [*(each.own for each in fleet.all), old, peer(150)]
    for each in fleet.all:
        fleet.reaches(each, reached)
        wait(lambda each=each: unused(each, late.subnet), late.subnet)  # type: ignore[misc]
        assert "its key is newer than the network's config" in unused(each, late.subnet)
    # Renewed as a flanneld does it, after a new start, and without etcd.
    fleet.put(old.name, old.value)
    wait(lambda: b'"10.5.110.0-24":[' in program.state.read_bytes().replace(b" ", b""))
    program.stop()
    program.start()
    fleet.reaches(program, reached)
    program.stop()
    fleet.etcd.stop()
    fleet.lab.reboot(program.host)
    assert program.run("restore").returncode == 0
    fleet.reaches(program, reached)
    fleet.etcd.start()


def test_nobody_is_pushed_aside_by_a_lease_that_is_written_later(
    fleet: Programs, program: Program
) -> None:
    """A writer of leases: with a victim's VTEP MAC under a key that sorts first."""
    victim = peer(130)
    fleet.join(victim)
    fleet.reaches(program, [*(each.own for each in fleet.all), victim])
    thief = Peer("10.5.101.0/24", "172.21.9.99", victim.mac)
    fleet.join(thief)
    wait(lambda: "is that of 172.21.9.131 too" in unused(program, thief.subnet), "the thief")
    fleet.reaches(program, [*(each.own for each in fleet.all), victim])
    program.kill()
    program.start()
    fleet.reaches(program, [*(each.own for each in fleet.all), victim])
    # Once the victim has left, the place is free.
    fleet.leave(victim)
    fleet.reaches(program, [*(each.own for each in fleet.all), thief])


def test_no_lease_takes_a_host_its_way_to_what_it_needs(fleet: Programs, program: Program) -> None:
    """A writer of leases: each covers an address that the host needs, of a resolver, of another
    member of etcd, of who manages it, of a time server."""
    program.stop()
    (program.host.etc / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    (program.host.etc / "ntp.conf").write_text(f"server {CLOCK} iburst\n")
    etcd = {"endpoints": [*fleet.etcd.endpoints, f"http://{SPARE_ETCD}:2379"], "timeout": 1}
    program.configure(etcd=etcd, controllers=[CONTROLLER])
    program.start()
    covering = {number: peer(number) for number in (150, 151, 152, 153)}
    fleet.join(*covering.values(), peer(154))
    wait(lambda: "10.5.154.0/24" in routes(program), "the good one")
    for address, words in (
        (RESOLVER, "a resolver of this host"),
        (SPARE_ETCD, "an address of etcd"),
        (CONTROLLER, "where this host is managed from"),
        (CLOCK, "a time server of this host"),
    ):
        subnet = address.rpartition(".")[0] + ".0/24"
        wait(lambda subnet=subnet: unused(program, subnet), subnet)  # type: ignore[misc]
        assert f"it covers {address}, which is {words}" in unused(program, subnet)
        assert subnet not in routes(program)
    # Others, who do not need them, use those leases.
    fleet.reaches(fleet.all[1], fleet.peers())
    # What is needed may change at any time; what is used already is in the overlay on purpose.
    (program.host.etc / "ntp.conf").write_text("server 10.5.154.1\n")
    wait(lambda: "10.5.153.0/24" in routes(program), "the lease used")
    assert "10.5.154.0/24" in routes(program)


def test_what_a_host_needs_may_be_a_pod(fleet: Programs, program: Program) -> None:
    """A file's writer, such as a DHCP server, or an administrator: a resolver, a time server and
    the controller have addresses of a peer's pods. No peer is lost by that, not even after it was
    away, or after a boot without etcd."""
    program.stop()
    with_pods = peer(160)
    fleet.join(with_pods)
    program.start()
    everybody = [*(each.own for each in fleet.all), with_pods]
    fleet.reaches(program, everybody)
    for name, text in (
        ("resolv.conf", "nameserver 10.5.160.53"),
        ("ntp.conf", "server 10.5.160.4"),
    ):
        (program.host.etc / name).write_text(text + "\n")
    program.configure(controllers=["10.5.160.7"])
    # A start with a peer there, one after an attack, and one without etcd.
    program.kill()
    program.start()
    wait(lambda: b'"10.5.160.53"' in program.state.read_bytes(), "it is remembered")
    fleet.reaches(program, everybody)
    fleet.leave(with_pods)
    fleet.reaches(program, [each.own for each in fleet.all])
    fleet.join(with_pods)
    fleet.reaches(program, everybody)
    fleet.saved(program)
    program.stop()
    fleet.etcd.stop()
    fleet.lab.reboot(program.host)
    try:
        assert program.run("restore").returncode == 0
        fleet.reaches(program, everybody)
    finally:
        fleet.etcd.start()
        for name in ("resolv.conf", "ntp.conf"):
            (program.host.etc / name).unlink()


# --- what the kernel refuses ----------------------------------------------------------------------


def test_what_the_kernel_refuses_for_one_lease_holds_up_no_other(
    fleet: Programs, program: Program
) -> None:
    """A lease whose next hop the kernel refuses, here since it is an address of the host itself:
    joins, leaves and repairs of all others go on."""
    program.ip("addr add 10.5.120.0/32 dev lo scope host")
    others = [*(each.own for each in fleet.all), peer(121), peer(122)]
    fleet.join(peer(120), peer(121), peer(122))
    fleet.reaches(program, others)
    wait(lambda: "10.5.120.0/24" in program.errors(), "the error")
    assert "Invalid argument (EINVAL)" in program.errors()
    wait(
        lambda: "the kernel refuses to add route 10.5.120.0/24" in unused(program, "10.5.120.0/24")
    )
    wait(lambda: program.told("peers") == 4, "the peers that are reached")
    # Nothing half done is left of it, and the others are as they should be after a new start, too.
    fleet.leave(peer(122))
    fleet.join(peer(123))
    others[-1] = peer(123)
    fleet.reaches(program, others)
    program.ip("route flush proto 110")
    fleet.reaches(program, others)
    program.kill()
    program.start()
    fleet.reaches(program, others)
    wait(lambda: "10.5.120.0/24" in program.errors(), "the error")
    # It is tried again now and then, not all the time.
    attempts = program.told("changes")
    program.ip("route add 192.0.2.0/24 dev eth0")
    program.ip("route del 192.0.2.0/24 dev eth0")
    assert program.told("changes") == attempts
    program.ip("addr del 10.5.120.0/32 dev lo")
    fleet.reaches(program, [*others, peer(120)])
    wait(lambda: program.told("errors") == [], "the end of the error")
    assert unused(program, "10.5.120.0/24") == ""
    assert "Traceback" not in program.said()


def test_a_host_gw_lease_with_an_impossible_next_hop_is_left_out(programs: Programs) -> None:
    """A writer of leases, with host-gw: public IPs that are broadcast addresses, or of a link
    alone, on hosts that have a route to such."""
    programs.begin(HOST_GW, check_interval=1)
    for each in programs.all:
        each.ip("addr add 169.254.7.7/16 brd + dev eth0 scope link")
        each.start()
    program = programs.all[0]
    for number, address in enumerate(
        ("169.254.255.255", "169.254.0.0", "172.21.255.255", "172.21.0.0", "0.0.0.9")
    ):
        programs.put("10.5.%d.0-24" % (10 + number), host_gw_lease(address))
    programs.put("10.5.20.0-24", host_gw_lease("172.21.9.20"))
    wait(lambda: "10.5.20.0/24 via 172.21.9.20" in routes(program), "the good one")
    wait(lambda: program.told("peers") == 3, "the peers that are reached")
    for number in range(5):
        wait(lambda number=number: unused(program, "10.5.%d.0/24" % (10 + number)))  # type: ignore[misc]
        assert "its public IP" in unused(program, "10.5.%d.0/24" % (10 + number))
    assert program.told("errors") == []
    programs.put("10.5.21.0-24", host_gw_lease("172.21.9.21"))
    programs.delete("10.5.20.0-24")
    wait(lambda: "10.5.21.0/24 via 172.21.9.21" in routes(program), "another")
    wait(lambda: "10.5.20.0/24" not in routes(program), "the one that left")
    programs.end()
