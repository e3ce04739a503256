# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of the lab: hosts with their own /etc and /run, and pods."""

from __future__ import annotations

import shutil
import subprocess
import typing as t
import uuid
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from plugins.plugin_utils import netns as entry

from .system import LabError, run

#: Makes machine IDs: a lab that is built again gets the same ones.
_MACHINE_IDS = uuid.UUID("6f7b1a52-2f0e-4f6e-9d0c-5a3f1e7c9b10")


class Node:
    """A network namespace that commands run in."""

    name: str
    netns: str
    address: str
    interface = "eth0"

    def command(self, argv: t.Sequence[str]) -> list[str]:
        """The command line that runs argv on this node; for subprocess.Popen."""
        return entry.command(self.netns, argv)

    def exec(
        self,
        argv: t.Sequence[str],
        check: bool = False,
        stdin: str | None = None,
        timeout: float | None = None,
        env: t.Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this node and return what came of it, as text."""
        done = subprocess.run(
            self.command(argv),
            # Never the caller's terminal: a command that reads would wait for ever.
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=env,
        )
        if check and done.returncode != 0:
            raise LabError(
                f"{self.name}: {' '.join(argv)} failed ({done.returncode}): "
                f"{(done.stderr or done.stdout).strip()}"
            )
        return done


@dataclass(frozen=True)
class Host(Node):
    """A host of the fleet."""

    lab: str
    name: str
    segment: int
    address: str
    directory: Path

    @property
    def netns(self) -> str:  # type: ignore[override]
        return f"{self.lab}-{self.name}"

    @property
    def etc(self) -> Path:
        """Its /etc, as seen from the machine."""
        return self.directory / "etc"

    @property
    def run(self) -> Path:
        """Its /run, as seen from the machine."""
        return self.directory / "run"

    @property
    def machine_id(self) -> str:
        return uuid.uuid5(_MACHINE_IDS, self.netns).hex

    def command(self, argv: t.Sequence[str]) -> list[str]:
        return entry.command(
            self.netns, argv, etc=str(self.etc), run=str(self.run), hostname=self.name
        )

    def clear_run(self) -> None:
        """Make its /run as it is after a boot."""
        if self.run.exists():
            shutil.rmtree(self.run)
        self.run.mkdir(parents=True)
        # No systemd/ in there: what looks for it must find that systemd does not run this host.
        (self.run / "lock").mkdir(mode=0o1777)

    def make_files(self, hosts_file: str) -> None:
        """Make its /etc and /run."""
        self.clear_run()
        upper, work = self.directory / "etc.upper", self.directory / "etc.work"
        for path in (self.etc, upper, work):
            path.mkdir()
        own = {
            "machine-id": f"{self.machine_id}\n",
            "hostname": f"{self.name}\n",
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n\n{hosts_file}",
            "resolv.conf": "# A lab has no uplink, so it has no name server.\n",
        }
        for name, text in own.items():
            (upper / name).write_text(text, encoding="utf-8")
        options = f"lowerdir=/etc,upperdir={upper},workdir={work}"
        try:
            run(["mount", "-t", "overlay", "overlay", "-o", options, str(self.etc)])
        except LabError:
            # No overlayfs on this file system (a container's own is one already): copy instead.
            shutil.copytree("/etc", self.etc, symlinks=True, dirs_exist_ok=True)
            for name, text in own.items():
                path = self.etc / name
                path.unlink(missing_ok=True)
                path.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Pod(Node):
    """A network namespace with a veth on a host's bridge and an address of the host's subnet."""

    host: str
    name: str
    netns: str
    cidr: str

    @property
    def address(self) -> str:  # type: ignore[override]
        return str(IPv4Address(self.cidr.split("/")[0]))
