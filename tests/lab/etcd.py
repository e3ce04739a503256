# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd of the lab: one or three members, each in a namespace of its own on segment 1."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path

from plugins.plugin_utils import netns as entry

from .signals import unblock, undisturbed
from .system import LabError, netns_pids
from .underlay import etcd_address

START_TIMEOUT = 90
STOP_TIMEOUT = 60


class Etcd:
    """Members are numbered from 1. Their data survives stop() and kill(), and goes with the lab."""

    def __init__(self, lab: str, members: int, directory: Path) -> None:
        self.lab = lab
        self.members = list(range(1, members + 1))
        self.directory = directory
        #: More arguments for every member (TLS, auth, …) and for every etcdctl; set before start().
        self.member_arguments: list[str] = []
        self.ctl_arguments: list[str] = []
        self.scheme = "http"
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def endpoints(self) -> list[str]:
        return [self.endpoint(member) for member in self.members]

    def endpoint(self, member: int) -> str:
        return f"{self.scheme}://{etcd_address(member)}:2379"

    def netns(self, member: int) -> str:
        return f"{self.lab}-etcd{member}"

    @property
    def namespaces(self) -> list[str]:
        return [self.netns(member) for member in self.members]

    def log(self, member: int) -> Path:
        return self.directory / f"etcd{member}.log"

    def pids(self, member: int) -> list[int]:
        """The server's process: etcdctl may be running in the same namespace."""
        return [pid for pid in netns_pids([self.netns(member)]) if _executable(pid) == "etcd"]

    def start(self, member: int | None = None, wait: bool = True) -> None:
        """Start one member, or all; with wait, return when they answer."""
        chosen = self._chosen(member)
        started = {}
        for number in chosen:
            if not self.pids(number):
                # A signal between the start and our knowing of it would leave etcd to itself.
                with undisturbed():
                    started[number] = self._spawn(number)
                    self._started.append(started[number])
        if wait:
            self.wait(chosen, started)

    def stop(self, member: int | None = None) -> None:
        """End one member, or all, in good order."""
        self._end(member, signal.SIGTERM)

    def kill(self, member: int | None = None) -> None:
        """Take one member, or all, away without warning."""
        self._end(member, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill what this object started, also what has not reached its namespace yet."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started = []

    def wait(
        self,
        members: t.Iterable[int] | None = None,
        started: t.Mapping[int, subprocess.Popen[bytes]] | None = None,
        timeout: float = START_TIMEOUT,
    ) -> None:
        """Wait until the members answer a linearised read."""
        deadline = time.monotonic() + timeout
        question = ["endpoint", "health", "--dial-timeout=1s", "--command-timeout=1s"]
        for member in members or self.members:
            while True:
                process = (started or {}).get(member)
                if process is not None and process.poll() is not None:
                    raise LabError(
                        f"etcd member {member} ended with {process.returncode}{self._tail(member)}"
                    )
                health = self._etcdctl(question, endpoints=[self.endpoint(member)])
                if health.returncode == 0:
                    break
                if time.monotonic() > deadline:
                    raise LabError(
                        f"etcd member {member} does not answer after {timeout:.0f} s: "
                        f"{health.stderr.strip()}{self._tail(member)}"
                    )
                time.sleep(0.05)

    def ctl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run etcdctl inside the lab and return what it prints."""
        done = self._etcdctl(arguments, endpoints=self.endpoints, stdin=stdin)
        if check and done.returncode != 0:
            raise LabError(
                f"etcdctl {' '.join(arguments)} failed ({done.returncode}): {done.stderr.strip()}"
            )
        return done.stdout

    def put(self, key: str, value: str) -> None:
        # By way of stdin: a value may be large, or start with a dash.
        self.ctl("put", "--", key, stdin=value)

    def get(self, key: str) -> str | None:
        """The value of a key, None if there is no such key."""
        lines = self.ctl("get", "--", key)
        if not lines:
            return None
        return lines.partition("\n")[2][:-1]

    def get_prefix(self, prefix: str) -> dict[str, str]:
        """All keys that start with prefix, with their values; for values of a single line."""
        lines = self.ctl("get", "--prefix", "--", prefix).splitlines()
        return dict(zip(lines[::2], lines[1::2]))

    def delete(self, key: str, prefix: bool = False) -> int:
        """Delete a key, or all that start with it; return how many there were."""
        return int(self.ctl("del", *(["--prefix"] if prefix else []), "--", key).strip())

    def _chosen(self, member: int | None) -> list[int]:
        if member is None:
            return self.members
        if member not in self.members:
            raise LabError(f"there is no etcd member {member}: the lab has {self.members}")
        return [member]

    def _spawn(self, member: int) -> subprocess.Popen[bytes]:
        own = etcd_address(member)
        peers = ",".join(f"etcd{m}=http://{etcd_address(m)}:2380" for m in self.members)
        argv = [
            "etcd",
            f"--name=etcd{member}",
            f"--data-dir={self.directory}/etcd{member}",
            f"--listen-client-urls={self.endpoint(member)}",
            f"--advertise-client-urls={self.endpoint(member)}",
            f"--listen-peer-urls=http://{own}:2380",
            f"--initial-advertise-peer-urls=http://{own}:2380",
            f"--initial-cluster={peers}",
            "--initial-cluster-state=new",
            f"--initial-cluster-token={self.lab}",
            *self.member_arguments,
        ]
        if len(self.members) == 1:
            # It only ever elects itself: no need to wait long for others.
            argv += ["--heartbeat-interval=20", "--election-timeout=200"]
        with self.log(member).open("ab") as log:
            try:
                return subprocess.Popen(
                    # No mount namespace, which would pin other labs' mounts while etcd runs.
                    ["nsenter", f"--net={entry.NETNS_DIR}/{self.netns(member)}", "--", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_clean_environment(),
                    # A Ctrl-C at the terminal is for us, who then stop etcd.
                    start_new_session=True,
                    preexec_fn=unblock,  # noqa: PLW1509 - no thread of ours runs meanwhile
                )
            except FileNotFoundError as exc:
                raise LabError(f"cannot start etcd: {exc}") from exc

    def _end(self, member: int | None, how: signal.Signals) -> None:
        chosen = self._chosen(member)
        for number in chosen:
            for pid in self.pids(number):
                os.kill(pid, how)
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(self.pids(number) for number in chosen):
            if time.monotonic() > deadline:
                raise LabError(f"etcd members {chosen} did not end within {STOP_TIMEOUT} s")
            time.sleep(0.02)

    def _etcdctl(
        self, arguments: t.Sequence[str], endpoints: list[str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        argv = [
            "nsenter",
            f"--net={entry.NETNS_DIR}/{self.netns(self.members[0])}",
            "--",
            "etcdctl",
            f"--endpoints={','.join(endpoints)}",
            *self.ctl_arguments,
            *arguments,
        ]
        return subprocess.run(
            argv,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**_clean_environment(), "ETCDCTL_API": "3"},
        )

    def _tail(self, member: int) -> str:
        lines = self.log(member).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return f"; the end of {self.log(member)}:\n" + "\n".join(lines)


def _clean_environment() -> dict[str, str]:
    """Ours without what would configure etcd, or send its traffic to a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ETCD") and not name.lower().endswith("_proxy")
    }


def _executable(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""
