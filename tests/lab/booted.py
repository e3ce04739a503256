# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab whose hosts are booted Debian systems, reached over SSH from a controller.

    with BootedFleet("real", hosts=2) as fleet:
        fleet.controller.exec(["ansible", "-i", str(fleet.inventory()), "flatnet", "-m", "ping"])

Each host is systemd under systemd-nspawn, in the network namespace that the lab made for it, on an
overlay over one Debian system (debian.py). It shows what namespaces alone cannot: udev and
systemd-networkd handling the links, services, files under the names that they really have, reboots.
The same from a shell: ``python3 -m tests.lab.booted --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import types
import typing as t
from dataclasses import dataclass
from pathlib import Path

from plugins.module_utils._flatnet.backends import known

from . import debian, survival, underlay
from .host import Host, Node
from .lab import NETWORK_VARIABLES, Lab
from .machine import Machine, make_key
from .signals import undisturbed, unwinding
from .system import LabError, ip_batch

BOOT_TIMEOUT = 300

#: Commands that the machine needs, and the packages that have them.
_NEEDED = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "journalctl": "systemd",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}


@dataclass(frozen=True)
class Controller(Node):
    """Where Ansible runs: on the underlay, and not a host."""

    name: str
    netns: str
    address: str


class BootedFleet:
    """A lab with booted hosts and a controller; up, down and load as those of Lab."""

    def __init__(self, name: str, hosts: int = 2, segments: int = 1, etcd: int = 1) -> None:
        self._around(Lab(name, hosts, segments, etcd))

    @classmethod
    def load(cls, name: str) -> BootedFleet:
        """A fleet that another process booted."""
        fleet = cls.__new__(cls)
        fleet._around(Lab.load(name))
        if not fleet.key.exists():
            raise LabError(f"the hosts of lab {name!r} are namespaces, not booted")
        return fleet

    def _around(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = lab.hosts
        self.machines = {host.name: Machine(host) for host in lab.hosts}
        # The last address of the segment: hosts have the first ones.
        address = str(underlay.segment_network(1)[-2])
        self.controller = Controller("controller", f"{lab.name}-controller", address)
        self.key = lab.directory / "ssh" / "id_ed25519"
        self.known_hosts = lab.directory / "ssh" / "known_hosts"

    # -- life ------------------------------------------------------------------------------------

    def up(self) -> BootedFleet:
        """Boot all hosts and wait until they answer; whatever goes wrong, nothing stays behind."""
        missing = sorted({p for command, p in _NEEDED.items() if not shutil.which(command)})
        if missing:
            raise LabError(f"booted hosts need packages: apt-get install {' '.join(missing)}")
        with unwinding():
            system = debian.system()
            try:
                self.lab.up()
                self._add_controller()
                self.key.parent.mkdir()
                make_key(self.key)
                authorized = self.key.with_suffix(".pub").read_text(encoding="utf-8")
                names = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
                known = []
                for machine in self.machines.values():
                    machine.make_files(names, authorized)
                    known.append(f"{machine.host.address} {machine.public_key}\n")
                    machine.start(system)
                self.known_hosts.write_text("".join(known), encoding="utf-8")
                for host in self.hosts:
                    self._wait(host)
            except BaseException:
                # Not where the name is another lab's.
                if self.lab._claimed:
                    self.down()
                raise
        return self

    def down(self) -> None:
        with undisturbed():
            for machine in self.machines.values():
                machine.end()
            self.lab.down()

    def __enter__(self) -> BootedFleet:
        self._signals = unwinding()
        self._signals.__enter__()
        try:
            return self.up()
        except BaseException:
            self._signals.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            self.down()
        finally:
            self._signals.__exit__(None, None, None)

    # -- use -------------------------------------------------------------------------------------

    def ssh(
        self,
        host: Host | str,
        argv: t.Sequence[str],
        check: bool = True,
        stdin: str | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, from the controller."""
        return self.controller.exec(
            [*self.ssh_command(host), "--", shlex.join(argv)], check, stdin, timeout
        )

    def ssh_command(self, host: Host | str) -> list[str]:
        host = self.lab.host(host) if isinstance(host, str) else host
        return ["ssh", "-i", str(self.key), *self._ssh_options(), f"root@{host.address}"]

    def controller_exec(self, argv: t.Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller."""
        return self.controller.exec(argv)

    def reboot(self, host: Host | str) -> None:
        """Have systemd reboot the host and wait until it is back. Its pods lose their links."""
        host = self.lab.host(host) if isinstance(host, str) else host
        before = self._boot_id(host)
        # The connection may be cut before it says that all went well.
        self.ssh(host, ["systemctl", "reboot"], check=False, timeout=BOOT_TIMEOUT)
        self._wait(host, before)

    def inventory(self, variables: t.Mapping[str, t.Any] | None = None) -> Path:
        """Write an ordinary inventory, with more variables of the group; return its path."""
        group = {
            "hosts": {host.name: {"ansible_host": host.address} for host in self.hosts},
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": " ".join(self._ssh_options()),
                # Hosts of another lab have the same addresses: no connection is shared with it.
                "ansible_control_path_dir": str(self.key.parent),
                "ansible_python_interpreter": "/usr/bin/python3",
                "flatnet_etcd_endpoints": self.lab.etcd.endpoints,
                **NETWORK_VARIABLES,
                **(variables or {}),
            },
        }
        path = self.lab.directory / "inventory.yml"
        path.write_text(json.dumps({"flatnet": group}, indent=2) + "\n", encoding="utf-8")
        return path

    # -- building --------------------------------------------------------------------------------

    def _add_controller(self) -> None:
        netns, seg1 = self.controller.netns, f"{self.lab.name}-underlay"
        self.lab._make_namespaces([netns])
        link = f"link add eth0 netns {netns} mtu {self.lab.mtu} type veth peer name controller"
        ip_batch([f"{link} mtu {self.lab.mtu} netns {seg1}"])
        ip_batch(["link set controller master seg1 up"], netns=seg1)
        ip_batch(
            [
                "link set lo up",
                f"addr add {self.controller.address}/16 brd + dev eth0",
                "link set eth0 up",
                f"route add default via {underlay.router_address(1)}",
            ],
            netns=netns,
        )

    def _ssh_options(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.known_hosts,
        }
        # -F: whoever runs the lab may have a configuration of their own.
        return ["-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]

    def _boot_id(self, host: Host) -> str:
        return self.ssh(host, ["cat", "/proc/sys/kernel/random/boot_id"]).stdout

    def _wait(self, host: Host, before: str = "") -> None:
        """Wait until the host has booted, not the boot before, as far as its systemd wants to."""
        machine = self.machines[host.name]
        deadline = time.monotonic() + BOOT_TIMEOUT
        state = ["sh", "-c", "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running"]
        while True:
            done = self.ssh(host, state, check=False, timeout=BOOT_TIMEOUT)
            boot_id, _newline, running = done.stdout.partition("\n")
            if boot_id and f"{boot_id}\n" != before and running in ("running\n", "degraded\n"):
                break
            if machine.process and machine.process.poll() is not None:
                status = machine.process.returncode
                raise LabError(f"{host.name} did not boot ({status}); {machine.tail()}")
            if time.monotonic() > deadline:
                answer = (done.stderr or done.stdout).strip()
                raise LabError(
                    f"{host.name} has not booted after {BOOT_TIMEOUT} s ({answer}); "
                    f"{machine.tail()}"
                )
            time.sleep(0.2)
        if running != "running\n":
            failed = self.ssh(host, ["systemctl", "--failed", "--plain", "--no-legend"]).stdout
            raise LabError(f"{host.name} booted, but units failed:\n{failed}{machine.tail()}")


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        raise LabError("booted hosts need root, as all of the lab does")
    return int(arguments.function(arguments) or 0)


def _up(arguments: argparse.Namespace) -> None:
    begin = time.monotonic()
    fleet = BootedFleet(arguments.name, arguments.hosts).up()
    print(f"lab {arguments.name}: {arguments.hosts} hosts in {time.monotonic() - begin:.1f} s")
    for host in fleet.hosts:
        print(f"  {host.name:<9} {host.address:<15} {host.netns}")
    print(f"  etcd      {', '.join(fleet.lab.etcd.endpoints)}")
    print(f"  inventory {fleet.inventory()}")


def _down(arguments: argparse.Namespace) -> None:
    if arguments.name not in Lab.names():
        print(f"lab {arguments.name}: not there")
        return
    # Also what is left of one that failed.
    BootedFleet(arguments.name, len(Lab.load(arguments.name).hosts)).down()
    print(f"lab {arguments.name}: gone")


def _ssh(arguments: argparse.Namespace) -> None:
    fleet = BootedFleet.load(arguments.name)
    words = _words(arguments)
    terminal = ["-t"] if not words and sys.stdin.isatty() else []
    command = [*fleet.ssh_command(arguments.host), *terminal]
    command = fleet.controller.command([*command, "--", shlex.join(words)] if words else command)
    os.execvp(command[0], command)


def _controller(arguments: argparse.Namespace) -> None:
    fleet = BootedFleet.load(arguments.name)
    command = fleet.controller.command(_words(arguments) or ["bash"])
    os.execvp(command[0], command)


def _reboot(arguments: argparse.Namespace) -> None:
    BootedFleet.load(arguments.name).reboot(arguments.host)


def _check(arguments: argparse.Namespace) -> None:
    with BootedFleet(arguments.name, arguments.hosts) as fleet:
        survival.check(fleet, arguments.backend)
    print("\nall as it should be; nothing is left")


def _words(arguments: argparse.Namespace) -> list[str]:
    words: list[str] = arguments.command
    return words[1:] if words[:1] == ["--"] else words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.lab.booted",
        description="Fleets of booted Debian systems on this machine, with a controller and etcd.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, function: t.Callable[[argparse.Namespace], None], text: str, default: str = ""
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text)
        one.set_defaults(function=function)
        if default:
            one.add_argument("--name", default=default, help=f"of the lab ({default})")
        else:
            one.add_argument("name")
        return one

    one = command("up", _up, "build a lab and boot its hosts")
    one.add_argument("--hosts", type=int, default=2, help="how many (2)")
    command("down", _down, "take a lab down")
    one = command("ssh", _ssh, "run a command on a host, from the controller (a shell)")
    one.add_argument("host", help="host1, host2 …")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    one = command("controller", _controller, "run a command where Ansible runs (a shell)")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    one = command("reboot", _reboot, "reboot a host")
    one.add_argument("host", help="host1, host2 …")
    one = command(
        "check", _check, "run site.yml on new hosts, and see that it works and stays", "booted"
    )
    one.add_argument("--hosts", type=int, default=2, help="how many (2)")
    carrying = [name for name, backend in known.BACKENDS.items() if backend.carries]
    one.add_argument("--backend", choices=carrying, default=known.DEFAULT)
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as exc:
        sys.exit(f"error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
