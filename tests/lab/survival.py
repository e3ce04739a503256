# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml on booted hosts: pods reach each other, and systemd leaves what it finds alone.

Restarting systemd-networkd and systemd-udevd is what an upgrade of systemd does to a host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import typing as t
from ipaddress import IPv4Interface
from pathlib import Path

from .host import Host
from .ping import table
from .system import LabError

if t.TYPE_CHECKING:
    from .booted import BootedFleet

REPOSITORY = Path(__file__).parents[2]

#: Until new addresses are no longer tentative, and networkd is through after it says it is ready.
SETTLE = 10

#: All that a host's kernel holds for its network, but neighbours only as far as somebody set them.
_DUMPS = (
    "ip -d -j link",
    "ip -d -j addr",
    "ip -d -j route show table all",
    "ip -d -j -6 route show table all",
    "ip -j rule",
    "ip -j -6 rule",
    "bridge -d -j fdb",
    "ip -j neigh show nud permanent",
    "ip -j -6 neigh show nud permanent",
)

#: What changes by itself.
_CLOCKS = re.compile(r"_timer$|^(valid|preferred)_life_time$|^expires$|^used$|^updated$")

_RECAP = re.compile(
    r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)


def check(fleet: BootedFleet, backend: str) -> None:
    """Do all of it; raise LabError with what is not as it should be."""
    inventory = fleet.inventory({"flatnet_backend": {"type": backend}})
    _step(f"site.yml, backend {backend}, over SSH from the controller")
    _play(fleet, inventory)
    _step("a pod on each host")
    for host in fleet.hosts:
        bridge, gateway = _bridge(fleet, host)
        address = IPv4Interface(f"{gateway.ip + 1}/{gateway.network.prefixlen}")
        fleet.lab.add_pod(host, str(address), str(gateway.ip), bridge)
        print(f"{host.name}: {address} on {bridge}")
    _ping(fleet)
    _step("site.yml again")
    changes = _play(fleet, inventory)
    if any(changes.values()):
        raise LabError(f"the second run of site.yml changed something: {changes}")
    _step("systemctl restart systemd-networkd systemd-udevd")
    time.sleep(SETTLE)
    before = {host.name: dump(fleet, host) for host in fleet.hosts}
    for host in fleet.hosts:
        fleet.ssh(host, ["systemctl", "restart", "systemd-networkd", "systemd-udevd"])
    time.sleep(SETTLE)
    lost = [
        f"{host.name} {line}"
        for host in fleet.hosts
        for line in difference(before[host.name], dump(fleet, host))
    ]
    if lost:
        raise LabError("the restart changed what the kernel holds:\n" + "\n".join(lost))
    print("links, addresses, routes, rules, FDB and neighbours are as before")
    _ping(fleet)


def dump(fleet: BootedFleet, host: Host) -> list[str]:
    """What a host's kernel holds for its network, a line for each thing."""
    lines = []
    for command in _DUMPS:
        for entry in json.loads(fleet.ssh(host, command.split()).stdout or "[]"):
            if entry:  # iproute2 shows what a filter leaves out as {}
                what = json.dumps(_without_clocks(entry), sort_keys=True)
                lines.append(f"{command.replace('-d ', '').replace('-j ', '')}: {what}")
    return lines


def difference(before: t.Sequence[str], after: t.Sequence[str]) -> list[str]:
    gone = [f"- {line}" for line in before if line not in after]
    return gone + [f"+ {line}" for line in after if line not in before]


def _without_clocks(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {k: _without_clocks(v) for k, v in value.items() if not _CLOCKS.search(k)}
    if isinstance(value, list):
        return [_without_clocks(item) for item in value]
    return value


def _play(fleet: BootedFleet, inventory: Path) -> dict[str, int]:
    """Run site.yml on the controller, its output as it comes; return the changes of each host."""
    own = REPOSITORY / ".venv/bin/ansible-playbook"
    program = str(own) if own.exists() else shutil.which("ansible-playbook")
    if not program:
        raise LabError("there is no ansible-playbook; 'make venv' makes one")
    playbook = str(REPOSITORY / "playbooks/site.yml")
    output = []
    with subprocess.Popen(
        fleet.controller.command([program, "-i", str(inventory), playbook]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    ) as process:
        for line in t.cast("t.IO[str]", process.stdout):
            print(line, end="", flush=True)
            output.append(line)
    if process.returncode != 0:
        raise LabError(f"ansible-playbook failed ({process.returncode})")
    recap = {found[1]: int(found[2]) for found in _RECAP.finditer("".join(output))}
    silent = [host.name for host in fleet.hosts if host.name not in recap]
    if silent:
        raise LabError(f"site.yml did nothing on {', '.join(silent)}")
    return recap


def _bridge(fleet: BootedFleet, host: Host) -> tuple[str, IPv4Interface]:
    """The bridge that has the gateway address of the host's subnet, as subnet.env names it."""
    environment = fleet.ssh(host, ["cat", "/run/flannel/subnet.env"]).stdout
    found = re.search(r"^FLANNEL_SUBNET=(\S+)$", environment, re.MULTILINE)
    if not found:
        raise LabError(f"{host.name}: subnet.env names no subnet: {environment!r}")
    gateway = IPv4Interface(found[1])
    links = json.loads(fleet.ssh(host, "ip -d -j addr show type bridge".split()).stdout)
    for link in links:
        for address in link.get("addr_info", []):
            if address["local"] == str(gateway.ip):
                return link["ifname"], gateway
    raise LabError(f"{host.name} has no bridge with the address {gateway.ip}")


def _ping(fleet: BootedFleet) -> None:
    matrix = fleet.lab.ping_matrix()
    print(table(matrix))
    if not all(matrix.values()):
        raise LabError("pods do not reach each other")


def _step(what: str) -> None:
    print(f"\n== {what}", flush=True)
