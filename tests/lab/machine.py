# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of the lab as a machine: systemd, booted by systemd-nspawn in the host's namespace."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from . import underlay
from .host import Host
from .system import LabError, ip_batch, netns_exists, run

END_TIMEOUT = 60

# One machine, for as long as it reboots. A reboot forgets what a kernel holds, which here is all of
# the network namespace: every boot gets a new one of the old name, with nothing in it but eth0.
_MACHINE = """
set -eu
groups=$1 netns=$2 overlay=$3 root=$4
shift 4
for group in $groups; do echo $$ >"$group/cgroup.procs"; done
while :; do
    ip netns add "$netns.new"
    ip -n "$netns" link set eth0 netns "$netns.new"
    ip netns del "$netns"
    touch "/run/netns/$netns"
    mount --bind "/run/netns/$netns.new" "/run/netns/$netns"
    ip netns del "$netns.new"
    status=0
    unshare --mount --propagation private sh -euc '
        overlay=$1 root=$2
        shift 2
        mkdir -p /run/systemd/nspawn
        mount -t tmpfs tmpfs /run/systemd/nspawn
        mount -t overlay overlay -o "$overlay" "$root"
        exec "$@"
    ' machine "$overlay" "$root" "$@" || status=$?
    [ "$status" = 133 ] || exit "$status"  # 133: it wants to be booted again
done
"""

_NETWORK = """\
[Match]
Name=eth0

[Network]
Address={address}/16
Gateway={gateway}
"""


class Machine:
    """A host that boots; its control groups are what it is ended by, whoever started it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.directory = host.directory.parent.parent / "machines" / host.name
        self.upper = self.directory / "upper"
        self.console = self.directory / "console.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def public_key(self) -> str:
        """The host's SSH key, as known_hosts has it."""
        key = self.upper / "etc/ssh/ssh_host_ed25519_key.pub"
        return " ".join(key.read_text(encoding="utf-8").split()[:2])

    def make_files(self, hosts_file: str, authorized_key: str) -> None:
        """What tells this host from another, on top of the system that all share."""
        files = {
            "etc/hostname": f"{self.host.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n\n{hosts_file}",
            "etc/machine-id": f"{self.host.machine_id}\n",
            "etc/systemd/network/eth0.network": _NETWORK.format(
                address=self.host.address, gateway=underlay.router_address(self.host.segment)
            ),
            "root/.ssh/authorized_keys": authorized_key,
        }
        for name, text in files.items():
            path = self.upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (self.upper / "root").chmod(0o700)
        (self.upper / "root/.ssh").chmod(0o700)
        # Its journal outlives it: it says why a host did not boot.
        (self.upper / "var/log/journal").mkdir(parents=True)
        (self.upper / "etc/ssh").mkdir()
        make_key(self.upper / "etc/ssh/ssh_host_ed25519_key")

    def start(self, system: Path) -> None:
        self.end()  # of a lab of this name that was not taken down
        work, root = self.directory / "work", self.directory / "root"
        for directory in (work, root):
            directory.mkdir()
        for group in self._groups():
            group.mkdir()
        # Silent until it has booted, with the MAC that its udev gives it: else the controller might
        # keep the one of now in mind, half a minute.
        ip_batch(["link set eth0 down"], netns=self.host.netns)
        netns = self.host.netns
        groups = " ".join(str(group) for group in self._groups())
        overlay = f"lowerdir={system},upperdir={self.upper},workdir={work}"
        nspawn = ["systemd-nspawn", "--boot", "--quiet", f"--directory={root}"]
        nspawn += [f"--machine={netns}", f"--hostname={self.host.name}", "--console=pipe"]
        nspawn += [f"--network-namespace-path=/run/netns/{netns}", "--capability=CAP_NET_ADMIN"]
        # No systemd is asked to make a scope for it, as there may be none on this machine.
        nspawn += ["--keep-unit", "--register=no", "--resolv-conf=off", "--timezone=off"]
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                ["sh", "-c", _MACHINE, "machine", groups, netns, overlay, str(root), *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    # Else, where the machine still has version 1, a container may get that.
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    # /proc/sys/net is the namespace's own. The rest of /proc/sys is the machine's,
                    # which a booting Debian would change: it stays read-only.
                    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
                },
                start_new_session=True,  # a Ctrl-C at the terminal is for us
            )

    def end(self) -> None:
        """End all its processes; also those that another process of ours started."""
        if self.process:
            self.process.kill()
        groups = [group for group in self._groups() if group.exists()]
        deadline = time.monotonic() + END_TIMEOUT
        while any(_populated(group) for group in groups):
            if time.monotonic() > deadline:
                raise LabError(f"processes of {self.host.netns} do not end although killed")
            (groups[0] / "cgroup.kill").write_text("1")
            time.sleep(0.02)
        if self.process:
            self.process.wait()
        for group in groups:
            for directory, _directories, _files in os.walk(group, topdown=False):
                os.rmdir(directory)
        if netns_exists(f"{self.host.netns}.new"):
            ip_batch([f"netns del {self.host.netns}.new"])

    def tail(self) -> str:
        """The ends of what it wrote to its console and to its journal."""
        journal = ["journalctl", "--no-pager", "--quiet", "--lines=20"]
        journal.append(f"--directory={self.upper}/var/log/journal")
        done = subprocess.run(journal, capture_output=True, text=True, check=False)
        console = self.console.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return "\n".join(
            [f"the end of {self.console}:", *console, "the end of its journal:", done.stdout]
        )

    def _groups(self) -> list[Path]:
        """Its control group, of version 2, and where systemd keeps one of version 1 its twin."""
        top = Path("/sys/fs/cgroup")
        name = f"flatnet-lab.{self.host.netns}"
        if (top / "cgroup.controllers").exists():
            return [top / name]
        if (top / "unified/cgroup.controllers").exists():
            twin = [top / "systemd" / name] if (top / "systemd").exists() else []
            return [top / "unified" / name, *twin]
        raise LabError(
            "booted hosts need control groups of version 2, mounted at /sys/fs/cgroup or at "
            "/sys/fs/cgroup/unified"
        )


def make_key(path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "flatnet-lab", "-f", str(path)])


def _populated(group: Path) -> bool:
    """Whether it or a group below it has processes; version 1 does not say, nor need to."""
    events = group / "cgroup.events"
    return events.exists() and "populated 1" in events.read_text(encoding="utf-8")
