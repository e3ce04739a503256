# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host behind a firewall that lets the overlay through: who reaches it, and its pods."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import typing as t

import pytest

from tests.integration import firewalld
from tests.integration.modules import run_module
from tests.integration.programs import HOST_GW, NETWORK, Programs
from tests.lab.host import Host, Node
from tests.lab.waiting import wait

PORT = 9999
# Neither of the overlay nor of the underlay's link; and of the overlay, but nobody's.
OUTSIDE, FORGED = "198.51.100.7", "10.5.250.9"

CONF = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
"""

_LISTEN = (
    """
import select, socket, sys
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("0.0.0.0", %d))
print("ready", flush=True)
while True:
    ready = select.select([ear, sys.stdin], [], [])[0]
    if ear in ready:
        print(ear.recv(100).decode(), flush=True)
    elif not sys.stdin.readline():
        break
    else:
        print("all", flush=True)
"""
    % PORT
)

_SEND = (
    """
import socket, sys
source, target, text = sys.argv[1:]
mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mouth.bind((source, 0))
for _number in range(3):
    mouth.sendto(text.encode(), (target, %d))
"""
    % PORT
)


class Ear:
    """Takes datagrams to any address of a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._program = subprocess.Popen(
            node.command(["/usr/bin/python3", "-c", _LISTEN]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read_until("ready")

    def read_until(self, last: str) -> set[str]:
        found: set[str] = set()
        while last not in found:
            line = t.cast("t.IO[str]", self._program.stdout).readline()
            assert line, "the listener has ended"
            found.add(line.strip())
        return found

    def heard(self, text: str) -> bool:
        """Whether it is among what has come so far."""
        mouth = t.cast("t.IO[str]", self._program.stdin)
        mouth.write("\n")
        mouth.flush()
        return text in self.read_until("all")

    def end(self) -> None:
        self._program.terminate()
        self._program.communicate()


class Way(t.NamedTuple):
    """Datagrams from a node, with this source, to a node's address."""

    sender: Node
    source: str
    ear: Ear
    target: str

    def send(self, text: str) -> bool:
        argv = ["/usr/bin/python3", "-c", _SEND, self.source, self.target, text]
        self.sender.exec(argv, check=True)
        return self.ear.heard(text)


@contextlib.contextmanager
def nftables(host: Host) -> t.Iterator[None]:
    (host.etc / "nftables.conf").write_text("flush ruleset\n" + CONF)
    host.exec(["nft", "-f", "/etc/nftables.conf"], check=True)
    try:
        yield
    finally:
        host.exec(["nft", "flush", "ruleset"], check=True)


FIREWALLS = {"nftables": nftables, "firewalld": firewalld.running}
_TEXTS = map(str, itertools.count())


@pytest.mark.parametrize("firewall", FIREWALLS)
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_pods_are_reached_and_the_host_is_not(
    programs: Programs, backend: str, firewall: str
) -> None:
    """Who can forge the overlay's sources on the underlay, who has a pod, and who routes packets to
    the host: only pods, and only by the overlay, are reached. Before, all of the host was open to
    each of them with firewalld, and all pods to everybody with both."""
    for each in programs.begin(NETWORK if backend == "vxlan" else HOST_GW):
        each.start()
        wait(each.state.exists, "the state of " + each.host.name)
    programs.add_pods()
    wait(programs.pods_answer, "the overlay")
    host, peer, third = programs.lab.hosts
    for each in programs.all:
        each.stop()  # it would take away the third one's own routes
    near, far, _other = sorted(programs.lab.pods, key=lambda pod: pod.host)
    gateway = near.address.rpartition(".")[0] + ".1"
    # The third host is no peer here, but somebody on the link.
    subnet = gateway.rpartition(".")[0] + ".0/24"
    for line in (f"addr add {OUTSIDE}/32 dev lo", f"addr add {FORGED}/32 dev lo"):
        third.exec(["ip", *line.split()], check=True)
    third.exec(["ip", "route", "replace", subnet, "via", host.address, "dev", "eth0"], check=True)
    host.exec(["ip", "route", "replace", OUTSIDE, "via", third.address], check=True)

    with contextlib.ExitStack() as stack:
        ears = [Ear(node) for node in (host, near, third)]
        for ear in ears:
            stack.callback(ear.end)
        services, pods, outside = ears
        # What a peer's host itself sends as.
        from_peer = far.address.rpartition(".")[0] + ".0" if backend == "vxlan" else peer.address
        good = {
            "pod to pod": Way(far, far.address, pods, near.address),
            "peer to pod": Way(peer, from_peer, pods, near.address),
            "pod to outside": Way(near, near.address, outside, OUTSIDE),
        }
        bad = {
            "forged source to host": Way(third, FORGED, services, host.address),
            "forged source to gateway": Way(third, FORGED, services, gateway),
            "link to host": Way(third, third.address, services, host.address),
            "own pod to host": Way(near, near.address, services, host.address),
            "own pod to gateway": Way(near, near.address, services, gateway),
            "peer's pod to gateway": Way(far, far.address, services, gateway),
            "outside to pod": Way(third, OUTSIDE, pods, near.address),
        }
        # Without a tunnel whoever is on the link may be a peer.
        link = {
            "link to pod": Way(third, third.address, pods, near.address),
            "forged source to pod": Way(third, FORGED, pods, near.address),
        }
        (bad if backend == "vxlan" else good).update(link)

        def unheard(ways: dict[str, Way]) -> list[str]:
            return [name for name, way in ways.items() if not way.send(next(_TEXTS))]

        wait(lambda: not unheard({**good, **bad}), "all of them, without a firewall")
        arguments: dict[str, t.Any] = {"network": "10.5.0.0/16", "interface": "eth0"}
        if backend == "vxlan":
            arguments.update(port=8472, device="flannel.1")
        else:
            arguments.update(link=host.address + "/24")
        with FIREWALLS[firewall](host):
            assert unheard(good) == list(good)
            assert unheard(bad) == list(bad)
            result = run_module(host, "host_firewall", arguments)
            assert result.get("firewalls") == [firewall], result
            wait(lambda: unheard(good) == [], "the overlay through the firewall")
            assert unheard(bad) == list(bad)
            for pod, target in ((near, gateway), (far, gateway), (near, far.address)):
                pod.exec(["ping", "-c", "1", "-W", "30", target], check=True)
            assert not run_module(host, "host_firewall", arguments)["changed"]
            run_module(host, "host_firewall", {**arguments, "state": "absent"})
            assert unheard(good) == list(good)


def test_a_reload_that_would_lose_what_is_not_permanent_is_refused(programs: Programs) -> None:
    """Bad luck: somebody has banned an address for now; the overlay's zones need a reload."""
    host = programs.lab.hosts[0]
    rule = 'rule family="ipv4" source address="192.0.2.66" reject'
    arguments = {"network": "10.5.0.0/16", "interface": "eth0", "port": 8472, "device": "flannel.1"}
    with firewalld.running(host):
        firewalld.tell(host, "--zone=public", f"--add-rich-rule={rule}")
        firewalld.tell(host, "--zone=work", "--add-interface=eth7")
        for check in (True, False):
            result = run_module(host, "host_firewall", arguments, check=check)
            assert f"zone public, rich rules {rule}" in result["msg"]
            assert "firewall-cmd --runtime-to-permanent" in result["msg"]
        assert "flatnet" not in firewalld.tell(host, "--permanent", "--list-all-zones")
        firewalld.tell(host, "--permanent", "--zone=public", f"--add-rich-rule={rule}")
        assert run_module(host, "host_firewall", arguments)["changed"]
        assert "eth7" in firewalld.tell(host, "--zone=work", "--list-interfaces")
        assert rule in firewalld.tell(host, "--zone=public", "--list-rich-rules")
        assert not run_module(host, "host_firewall", arguments)["changed"]
