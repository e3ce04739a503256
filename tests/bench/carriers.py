# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What carries packets from pod to pod: each in a lab of its own, all of them up at once."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from dataclasses import dataclass, field

from tests.lab import Host, Lab, LabError, Node
from tests.lab.system import ip_batch, netns_pids
from tests.lab.waiting import wait
from tests.relay.hosts import NETWORK, Fleet, Running

from .fleet import PREFIX
from .measure import cpu_seconds

RAW, VXLAN, LOOP = "raw", "vxlan", "loop"
FLANNELD, RELAY, VECTOR = "flanneld", "relay", "vector"
TITLES = {
    RAW: "the underlay, host to host",
    VXLAN: "kernel VXLAN",
    LOOP: "a loop in Python, packet by packet",
    FLANNELD: "flanneld, udp",
    RELAY: "`flatnet-relay`, flannel's format",
    VECTOR: "`flatnet-relay`, vectors",
}

_VXLAN_OVERHEAD = 50


@dataclass
class Carrier:
    """Two ends, and what is between them. ``fleet`` is a relay's, ``programs`` other processes."""

    name: str
    hosts: list[Host]
    ends: list[Node]
    fleet: Fleet | None = None
    programs: list[Running] = field(default_factory=list)

    def cpu(self) -> float:
        """Of all processes on the two hosts: what carries packets is alone there. Kernel time that
        nobody is charged with is not in it."""
        return sum(map(cpu_seconds, netns_pids([host.netns for host in self.hosts])))

    @property
    def in_userspace(self) -> bool:
        return self.name not in (RAW, VXLAN)

    def check(self) -> None:
        """A measurement of something else than what it says is none."""
        for program in self.programs:
            if not program.alive:
                raise LabError("%s has ended: %s" % (TITLES[self.name], program.said()))
        if self.fleet and self.in_userspace:
            for each in self.fleet.hosts:
                each.check()
        if self.name in (RELAY, VECTOR) and bool(self._vectors()) != (self.name == VECTOR):
            raise LabError("%s sent %d vectors" % (TITLES[self.name], self._vectors()))

    def _vectors(self) -> int:
        assert self.fleet
        return int(self.fleet.hosts[0].ask("status")["totals"]["tx_vectors"])

    def fallen_back(self) -> bool:
        """Whether vectors are paused just now."""
        if self.name != VECTOR or not self.fleet:
            return False
        return "fallen back" in json.dumps(self.fleet.hosts[0].ask("status"))


@contextlib.contextmanager
def all_up(name: str, flanneld: str | None) -> t.Iterator[list[Carrier]]:
    """All that are measured, until the end of the block."""
    with contextlib.ExitStack() as stack:
        made = []
        for each in TITLES:
            if each == FLANNELD and not flanneld:
                continue
            lab = Lab("%s-%s" % (name, each), hosts=2, etcd=1 if each == FLANNELD else 0)
            stack.enter_context(lab)
            if each == RAW:
                made.append(Carrier(each, lab.hosts, list(lab.hosts)))
            elif each == FLANNELD:
                made.append(_flanneld(lab, flanneld or ""))
            else:
                fleet = stack.enter_context(Fleet(lab))
                pods: list[Node] = [host.pod for host in fleet.hosts]
                made.append(Carrier(each, lab.hosts, pods, fleet))
                if each == VXLAN:
                    _vxlan(fleet)
                else:
                    kind = {LOOP: "plain", RELAY: "relay", VECTOR: "vector"}[each]
                    fleet.carry(kind, kind)
        for carrier in made:
            one, other = carrier.ends
            wait(
                lambda one=one, other=other: (  # type: ignore[misc]
                    one.exec(["ping", "-c", "1", "-W", "1", other.address]).returncode == 0
                ),
                15,
                "an answer by way of %s" % TITLES[carrier.name],
            )
        yield made


def _vxlan(fleet: Fleet) -> None:
    """As flannel makes it."""
    mtu = fleet.lab.mtu - _VXLAN_OVERHEAD
    macs = ["02:00:00:00:00:%02x" % number for number, _each in enumerate(fleet.hosts)]
    for own, other, mac, peer in zip(fleet.hosts, fleet.hosts[::-1], macs, macs[::-1]):
        there = other.subnet.partition("/")[0]
        own.ip(
            "link add flannel.1 address %s mtu %d type vxlan id 1 local %s dev eth0 dstport 8472 "
            "nolearning" % (mac, mtu, own.address),
            "addr add %s/32 dev flannel.1" % own.subnet.partition("/")[0],
            "link set flannel.1 up",
            "neigh add %s lladdr %s dev flannel.1 nud permanent" % (there, peer),
            "route add %s via %s dev flannel.1 onlink" % (other.subnet, there),
            "link set cni0 mtu %d" % mtu,
            "link set pod1 mtu %d" % mtu,
        )
        ip_batch(["link set eth0 mtu %d" % mtu], netns=own.pod.netns)
        entry = "fdb add %s dev flannel.1 dst %s self permanent" % (peer, other.address)
        own.host.exec(["bridge", *entry.split()], check=True)


def _flanneld(lab: Lab, path: str) -> Carrier:
    """A real one on each host, which leases for itself; a bridge and a pod as it then tells."""
    lab.etcd.put(PREFIX + "/config", json.dumps({"Network": NETWORK, "Backend": {"Type": "udp"}}))
    carrier = Carrier(FLANNELD, lab.hosts, [])
    for host in lab.hosts:
        argv = [os.path.abspath(path), "-iface=eth0", "-etcd-prefix=" + PREFIX]
        program = Running(host, [*argv, "-etcd-endpoints=" + ",".join(lab.etcd.endpoints)])
        carrier.programs.append(program)
        told = host.run / "flannel" / "subnet.env"
        # One after the other: those that start at once often miss each other.
        wait(lambda told=told: told.exists(), 15, "subnet.env of flanneld")  # type: ignore[misc]
        words = dict(line.split("=", 1) for line in told.read_text().splitlines())
        gateway, mtu = words["FLANNEL_SUBNET"], int(words["FLANNEL_MTU"])
        ip_batch(
            [
                "link add cni0 mtu %d type bridge mcast_snooping 0" % mtu,
                "addr add %s dev cni0" % gateway,
                "link set cni0 up",
            ],
            netns=host.netns,
        )
        host.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        address = gateway.partition("/")[0]
        carrier.ends.append(lab.add_pod(host, address.rpartition(".")[0] + ".9/24", address))
    return carrier
