# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real etcd on loopback, for tests of the client itself: clusters, TLS, members that die or hang.

The lab has etcd too, inside namespaces. Here the tests' own process is the client.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

START_TIMEOUT = 90


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Member:
    """One etcd process; it keeps its ports and data over stop() and start()."""

    def __init__(self, name: str, directory: Path, ports: list[int], scheme: str) -> None:
        self.name = name
        self.directory = directory
        self.url = f"{scheme}://127.0.0.1:{ports[0]}"
        self.peer_url = f"http://127.0.0.1:{ports[1]}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text(errors="replace")

    def start(self, arguments: list[str]) -> None:
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "etcd",
                    f"--name={self.name}",
                    f"--data-dir={self.directory / self.name}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls={self.peer_url}",
                    f"--initial-advertise-peer-urls={self.peer_url}",
                    "--heartbeat-interval=50",
                    "--election-timeout=500",
                    "--bcrypt-cost=4",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pause(self) -> None:
        """As a member that hangs: the kernel accepts its connections, and nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class EtcdServers:
    """One or three members; a context manager."""

    def __init__(
        self,
        directory: Path,
        members: int = 1,
        arguments: list[str] | None = None,
        scheme: str = "http",
        ctl_arguments: list[str] | None = None,
    ) -> None:
        ports = free_ports(2 * members)
        self.members = [
            Member(f"m{index}", directory, ports[2 * index : 2 * index + 2], scheme)
            for index in range(members)
        ]
        initial = ",".join(f"{each.name}={each.peer_url}" for each in self.members)
        self.arguments = [f"--initial-cluster={initial}", *(arguments or [])]
        self.ctl_arguments = ctl_arguments or []

    @property
    def urls(self) -> list[str]:
        return [each.url for each in self.members]

    def __enter__(self) -> EtcdServers:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the members that do not run, and wait until each answers a linearised read."""
        for member in self.members:
            if member.process is None:
                member.start(self.arguments)
        deadline = time.monotonic() + START_TIMEOUT
        for member in self.members:
            while not self._healthy(member):
                assert member.process is not None
                if member.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"etcd {member.name} did not start:\n{member.log[-2000:]}")
                time.sleep(0.05)

    def stop(self) -> None:
        for member in self.members:
            member.kill()

    def ctl(self, *arguments: str, endpoints: list[str] | None = None) -> str:
        return self._ctl(arguments, endpoints or self.urls, check=True).stdout

    def leader(self) -> Member:
        """The member that leads now."""
        for member in self.members:
            fields = self._ctl(["endpoint", "status"], [member.url], check=False).stdout.split(", ")
            if len(fields) > 4 and fields[4] == "true":
                return member
        raise RuntimeError("no member leads")

    def _healthy(self, member: Member) -> bool:
        # A read that permission is denied for has been through the leader as well.
        answer = self._ctl(["get", "health"], [member.url], check=False)
        return answer.returncode == 0 or "user name is empty" in answer.stderr

    def _ctl(
        self, arguments: list[str] | tuple[str, ...], endpoints: list[str], check: bool
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")
        }
        answer = subprocess.run(
            [
                "etcdctl",
                f"--endpoints={','.join(endpoints)}",
                "--command-timeout=2s",
                *self.ctl_arguments,
                *arguments,
            ],
            env={**environment, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and answer.returncode != 0:
            raise RuntimeError(f"etcdctl {' '.join(arguments)}: {answer.stderr.strip()}")
        return answer


class Certificates:
    """A CA, another CA, and certificates for etcd and its clients; each is NAME.pem, NAME.key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for ca in ("ca", "other-ca"):
            self._openssl(
                *f"req -x509 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem".split(),
                *"-newkey ec -pkeyopt ec_paramgen_curve:P-256".split(),
            )
        self.make("server", "DNS:localhost,IP:127.0.0.1")
        self.make("elsewhere", "DNS:etcd.example.com")
        self.make("expired", "IP:127.0.0.1", days=-1)
        self.make("client", "DNS:client")
        self.make("stranger", "DNS:stranger", ca="other-ca")

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def make(self, name: str, names: str, ca: str = "ca", days: int = 2) -> None:
        # etcd's gateway uses the server's certificate as a client of its own etcd.
        (self.directory / f"{name}.ext").write_text(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        # No common name: the gateway of etcd 3.4 refuses it where client certificates are checked.
        self._openssl(
            *f"req -nodes -subj /O={name} -keyout {name}.key -out {name}.csr".split(),
            *"-newkey ec -pkeyopt ec_paramgen_curve:P-256".split(),
        )
        self._openssl(
            *f"x509 -req -in {name}.csr -out {name}.pem -days {days} -extfile {name}.ext".split(),
            *f"-CA {ca}.pem -CAkey {ca}.key -CAcreateserial".split(),
        )

    def server_arguments(self, name: str, client_auth: bool = False) -> list[str]:
        arguments = [
            f"--cert-file={self.path(name)}.pem",
            f"--key-file={self.path(name)}.key",
        ]
        if client_auth:
            arguments += ["--client-cert-auth", f"--trusted-ca-file={self.path('ca.pem')}"]
        return arguments

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)
