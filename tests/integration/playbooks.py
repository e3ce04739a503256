# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the collection's playbooks against a lab, and what is there afterwards."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
import typing as t
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from tests.lab import Host, Lab, Pod
from tests.lab.system import netns_pids
from tests.lab.waiting import PATIENCE

Ansible = t.Callable[..., "subprocess.CompletedProcess[str]"]
Record = dict[str, t.Any]

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets/"
GUARDS = f"{PREFIX}/flatnet/"

# All of a kernel's state that the collection may touch; no timers, nothing learned. Devices make
# link-local IPv6 addresses and their routes by themselves, some time after they are up.
_DUMPS = [
    "ip -o link show",
    "ip -d link show type vxlan",
    "ip -4 -o addr show",
    "ip -4 route show table all",
    "ip neigh show nud permanent",
    "ip rule show",
    "bridge fdb show",
]


@dataclass(frozen=True)
class Run:
    """One run of a playbook."""

    code: int
    output: str
    records: list[Record]

    def changed(self) -> set[tuple[str, str]]:
        """Hosts and tasks that a run shows as changed: what counts as skipped is not among them."""
        return {
            (each["host"], each["task"])
            for each in self.records
            if each["changed"] and not each.get("skipped")
        }

    def shown(self, task: str) -> str:
        """What the run printed of a task, from its headline on."""
        _before, _headline, after = self.output.partition(f"\nTASK [{task}] ")
        return after.partition("\nTASK [")[0].partition("\nPLAY ")[0]

    def recap(self) -> dict[str, dict[str, int]]:
        """By host, the counts that the run ended with."""
        lines = self.output.partition("\nPLAY RECAP ")[2].splitlines()[1:]
        counts = {}
        for line in lines:
            host, colon, rest = line.partition(" : ")
            if colon:
                pairs = [each.split("=") for each in rest.split()]
                counts[host.strip()] = {name: int(count) for name, count in pairs}
        return counts

    def failures(self) -> dict[str, str]:
        """By host, what the first task that failed there said."""
        found: dict[str, str] = {}
        for each in self.records:
            if each.get("failed"):
                found.setdefault(each["host"], each["msg"])
        return found

    def warnings(self) -> str:
        return "\n".join(str(text) for each in self.records for text in each["warnings"])


class Site:
    """A lab and its inventory; ``hosts`` are those that Ansible manages (default: all).

    ``sync`` as flatnet_sync: by default nothing else puts right what a test breaks. ``name`` tells
    one controller's runs from another's.
    """

    def __init__(
        self,
        lab: Lab,
        ansible: Ansible,
        hosts: t.Sequence[Host] | None = None,
        sync: str = "none",
        name: str = "run",
    ) -> None:
        self.lab = lab
        self._name = name
        self.hosts = list(hosts or lab.hosts)
        self._ansible = ansible
        self._inventory = str(lab.inventory({"flatnet_sync": sync}))
        self._runs = 0

    def play(
        self,
        playbook: str = "playbooks/site.yml",
        *arguments: str,
        code: int | None = 0,
        env: t.Mapping[str, str] | None = None,
        **variables: t.Any,
    ) -> Run:
        """Run a playbook; a return code other than the given one is a failure of the test."""
        self._runs += 1
        file = self.lab.directory / f"{self._name}{self._runs}.jsonl"
        file.touch()
        done = self._ansible(
            "ansible-playbook",
            playbook,
            *("-i", self._inventory),
            *("--limit", ",".join(host.name for host in self.hosts)),
            *("-e", json.dumps(variables)),
            *arguments,
            ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback")),
            ANSIBLE_CALLBACKS_ENABLED="record",
            RECORD_FILE=str(file),
            **(env or {}),
        )
        output = done.stdout + done.stderr
        assert code is None or done.returncode == code, output
        lines = file.read_text(encoding="utf-8").splitlines()
        return Run(done.returncode, output, [json.loads(line) for line in lines])

    def module(
        self, name: str, arguments: t.Mapping[str, t.Any], *options: str, code: int = 0
    ) -> str:
        """Run a module of the collection on all hosts; what it printed."""
        done = self._ansible(
            "ansible",
            ",".join(host.name for host in self.hosts),
            *("-i", self._inventory),
            *("-m", f"flatnet.overlay.{name}"),
            *("-a", json.dumps(arguments)),
            *options,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    # --- what is there --------------------------------------------------------------------------

    def kernel(self) -> dict[str, str]:
        """What each host's kernel holds."""
        script = "\n".join(f"echo '# {dump}'; {dump} | sort" for dump in _DUMPS)
        return {
            host.name: host.exec(["sh", "-c", script], check=True).stdout for host in self.lab.hosts
        }

    def leases(self) -> dict[str, dict[str, t.Any]]:
        """The leases in etcd by their public IP; ``subnet`` added."""
        found = {}
        for key, value in self.lab.etcd.get_prefix(SUBNETS).items():
            lease = json.loads(value)
            found[lease["PublicIP"]] = {**lease, "subnet": key[len(SUBNETS) :].replace("-", "/")}
        return found

    def unheld(self, count: int) -> list[str]:
        """So many subnets that no host holds: which ones hosts have got follows from their
        identities, and those from the name of the lab, which is another one in each run."""
        held = {lease["subnet"] for lease in self.leases().values()}
        subnets = map("10.5.{}.0/24".format, range(200, 255))
        return list(itertools.islice((each for each in subnets if each not in held), count))

    def subnet_env(self, host: Host) -> dict[str, str]:
        text = (host.run / "flannel/subnet.env").read_text(encoding="utf-8")
        return dict(line.split("=", 1) for line in text.splitlines())

    def wait_until_idle(self) -> None:
        """A run that was killed leaves behind what was being done on hosts."""
        etcd = {pid for member in self.lab.etcd.members for pid in self.lab.etcd.pids(member)}
        deadline = time.monotonic() + PATIENCE
        while any(
            pid not in etcd and not _resident(pid)
            for pid in netns_pids(host.netns for host in self.lab.hosts)
        ):
            assert time.monotonic() < deadline, "tasks of the killed run do not end"
            time.sleep(0.05)

    # --- pods -----------------------------------------------------------------------------------

    def add_pods(self) -> list[Pod]:
        """A pod on each host."""
        pods = []
        for host in self.hosts:
            gateway = IPv4Interface(self.subnet_env(host)["FLANNEL_SUBNET"])
            address = f"{gateway.ip + 1}/{gateway.network.prefixlen}"
            pods.append(self.lab.add_pod(host, address, str(gateway.ip)))
        return pods

    def lost(self, mtu: int | None = None) -> list[tuple[str, str]]:
        """Pairs of pods that do not reach each other, also with whole packets of the given MTU."""
        matrix = self.lab.ping_matrix(size=mtu, df=mtu is not None)
        assert matrix
        return [pair for pair, answered in matrix.items() if not answered]


def _resident(pid: int) -> bool:
    """Whether it is a program that stays on a host, or what keeps it running; or has ended."""
    try:
        command = Path("/proc/%d/cmdline" % pid).read_bytes()
    except OSError:
        return True
    return b"/etc/flatnet/" in command
