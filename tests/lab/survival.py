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
import shlex
import shutil
import subprocess
import time
import typing as t
from ipaddress import IPv4Interface
from pathlib import Path

from plugins.module_utils._flatnet.backends import known

from .host import Host
from .ping import table
from .system import LabError
from .waiting import wait

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

_UNIT = "flatnet-relay.service"

#: Of systemd-analyze security: what is left is what the relay is for, sockets and a device.
MOST_EXPOSURE = 1.2

#: Prints whatever there is of the collection on a host.
_LEFT = """
ls -d /etc/flatnet /var/lib/flatnet /run/flatnet-relay /usr/local/lib/flatnet* 2>/dev/null
ls /usr/local/sbin/flatnet-* /etc/systemd/system/flatnet-* 2>/dev/null
find /etc -xdev -path '*flatnet*'
getent passwd flatnet-relay; getent group flatnet-relay
systemctl list-units --all --plain --no-legend 'flatnet-*'
ip -o link | grep flannel
ip route show proto 110
ss -Hlun sport = 8285
true
"""

#: The relay is back by then, on a busy machine too.
BACK = 30

#: Tries to get the relay's port, of its address or of all, until it has it; without rights.
_SQUATTER = """
import os, socket, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print("as user", os.getuid(), flush=True)
end = time.monotonic() + 600
while time.monotonic() < end:
    for address in (sys.argv[1], "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                one.bind((address, 8285))
            except OSError:
                continue
            sys.exit(0)
sys.exit(1)
"""

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
    _content(fleet)
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
    if known.BACKENDS[backend].relay:
        _relay(fleet, inventory)
    else:
        _half_way(fleet)


def _content(fleet: BootedFleet) -> None:
    """flatnet-sync can do all that it has to with the rights that its unit leaves it."""
    for host in fleet.hosts:
        errors = json.loads(fleet.ssh(host, ["flatnet-sync", "status", "--json"]).stdout)["errors"]
        if errors:
            raise LabError(f"flatnet-sync on {host.name} says: {errors}")


def _relay(fleet: BootedFleet, inventory: Path) -> None:
    """What is special to the backend that has a process on every host."""
    host = fleet.hosts[0]
    _step("systemd-analyze security flatnet-relay")
    analysed = fleet.ssh(host, ["systemd-analyze", "--no-pager", "security", _UNIT]).stdout
    print(
        "\n".join(line for line in analysed.splitlines() if line.startswith(("\u2717", "\u2192")))
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", analysed)
    if not found or float(found[1]) > MOST_EXPOSURE:
        raise LabError(f"the relay is more exposed than {MOST_EXPOSURE}")
    _port(fleet, host)
    _step(f"reboot of {host.name}")
    fleet.reboot(host)
    begin = time.monotonic()
    while fleet.ssh(host, ["flatnet-relay", "status"], check=False).returncode:
        if time.monotonic() > begin + BACK:
            raise LabError(f"the relay is not there {BACK} s after the boot")
    _before_logins(fleet, host)
    others = [each for each in fleet.hosts if each is not host]
    subnets = json.loads(fleet.ssh(host, ["flatnet-relay", "status", "--json"]).stdout)["table"]
    if subnets["peers"] != len(others):
        raise LabError(f"after the reboot the relay knows {subnets['peers']} peers")
    print(f"the relay runs and knows {subnets['peers']} peers")
    _step(f"remove.yml of {host.name}")
    _play(fleet, inventory, "remove.yml", "-e", f"flatnet_remove={host.name}")
    left = fleet.ssh(host, ["sh", "-c", _LEFT]).stdout
    if left:
        raise LabError(f"remove.yml has left on {host.name}:\n{left}")
    print("nothing is left of it")


def _half_way(fleet: BootedFleet) -> None:
    """A boot comes when a run has made the relay, and not yet changed flatnet-sync for it."""
    host = fleet.hosts[0]
    relayed = next(name for name, backend in known.BACKENDS.items() if backend.relay)
    _step(f"site.yml with backend {relayed}, cut short before its step of flatnet-sync")
    backend = {"flatnet_backend": {"type": relayed}, "flatnet_network_force": True}
    inventory = fleet.inventory(backend)
    _play(fleet, inventory, "site.yml", "--skip-tags", "sync")
    words = ["grep", "-q", relayed, "/var/lib/flatnet/state"]
    wait(lambda: not fleet.ssh(host, words, check=False).returncode, "a state with a relay")
    _step(f"reboot of {host.name}")
    fleet.reboot(host)
    words = ["flatnet-relay", "status"]
    wait(lambda: not fleet.ssh(host, words, check=False).returncode, "the relay after the boot")
    print("the relay runs")
    _play(fleet, inventory, "verify.yml")


def _port(fleet: BootedFleet, host: Host) -> None:
    """Nobody else gets the relay's port while it is killed, restarted and loses a worker."""
    _step("somebody without rights is after the relay's port")
    squatter = subprocess.Popen(
        fleet.controller.command(
            [*fleet.ssh_command(host), "--", shlex.join(["python3", "-c", _SQUATTER, host.address])]
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        print(f"he begins: {t.cast('t.IO[str]', squatter.stdout).readline().strip()}")
        for what in ("kill -9 of the relay", "kill -9 of a worker", "systemctl restart") * 3:
            before = _main(fleet, host)
            if what == "systemctl restart":
                fleet.ssh(host, ["systemctl", "restart", _UNIT])
            else:
                words = ["kill", "-9", before] if "relay" in what else ["pkill", "-9", "-P", before]
                fleet.ssh(host, words)
            begin = time.monotonic()
            while _main(fleet, host) in ("0", before) or (
                fleet.ssh(host, ["flatnet-relay", "status"], check=False).returncode
            ):
                if time.monotonic() > begin + BACK:
                    raise LabError(f"{what}: the relay is not back after {BACK} s")
            if squatter.poll() is not None:
                raise LabError(f"{what}: somebody else got the relay's port")
            print(f"{what}: it answers again, and nobody else has its port")
            _ping(fleet)
        fleet.ssh(host, ["systemctl", "stop", _UNIT])
        if squatter.wait(BACK):
            raise LabError("he ended, and not since he has the port")
        words = ["systemctl", "show", "--property=Result", "--value", _UNIT]
        result = fleet.ssh(host, words).stdout.strip()
        if result != "success":
            raise LabError(f"systemctl stop: the relay's result is {result}")
        print("systemctl stop: the port is anybody's")
        fleet.ssh(host, ["systemctl", "start", _UNIT])
    finally:
        squatter.kill()
        squatter.wait()
    _ping(fleet)


def _before_logins(fleet: BootedFleet, host: Host) -> None:
    """The relay was started, and so had its port, before a user could log in."""
    words = ["journalctl", "-b", "-q", "-o", "json", "-u", _UNIT, "JOB_TYPE=start"]
    lines = fleet.ssh(host, words).stdout.splitlines()
    # The first job has an end, good or bad, before what is ordered after it begins.
    ends = [int(found["__MONOTONIC_TIMESTAMP"]) for found in map(json.loads, lines)]
    words = ["systemctl", "show", "--property=InactiveExitTimestampMonotonic", "--value"]
    logins = int(fleet.ssh(host, [*words, "systemd-user-sessions.service"]).stdout)
    if len(ends) < 2 or ends[1] > logins:
        raise LabError(f"users could log in at {logins}, the relay was started at {ends[:2]}")
    print(f"it had started {(logins - ends[1]) / 1e6:.2f} s before users could log in")


def _main(fleet: BootedFleet, host: Host) -> str:
    """The process id of the relay's main process; 0 if there is none."""
    words = ["systemctl", "show", "--property=MainPID", "--value", _UNIT]
    return fleet.ssh(host, words).stdout.strip()


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


def _play(
    fleet: BootedFleet, inventory: Path, name: str = "site.yml", *arguments: str
) -> dict[str, int]:
    """Run a playbook on the controller, its output as it comes; return the changes of each host."""
    own = REPOSITORY / ".venv/bin/ansible-playbook"
    program = str(own) if own.exists() else shutil.which("ansible-playbook")
    if not program:
        raise LabError("there is no ansible-playbook; 'make venv' makes one")
    playbook = str(REPOSITORY / "playbooks" / name)
    output = []
    with subprocess.Popen(
        fleet.controller.command([program, "-i", str(inventory), playbook, *arguments]),
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
        raise LabError(f"{name} did nothing on {', '.join(silent)}")
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
