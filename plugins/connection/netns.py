# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run commands in a network namespace of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: netns
short_description: Run tasks in a network namespace of this machine
version_added: 0.1.0
author:
  - the flatnet.overlay authors (@flatnet)
description:
  - Treats a named network namespace of the controller as a host.
  - The namespace can have its own C(/etc), C(/run) and host name, so that several such hosts on one
    machine keep their files, their machine ID (C(/etc/machine-id)) and their run-time state apart.
    Everything else of the file system is the controller's and is shared.
  - Every command gets a mount namespace of its own. C(/sys) is mounted anew in it, so that
    C(/sys/class/net) shows the devices of the network namespace. Nothing keeps running between
    commands, and nothing outside of a command sees its mounts.
options:
  namespace:
    description:
      - Name of the network namespace, as C(ip netns list) shows it.
      - The default is the host's name in the inventory.
    type: string
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_netns_name
  etc:
    description:
      - Directory of the controller that is mounted over C(/etc), as an absolute path.
      - Without it, each entry of C(/etc/netns/<namespace>/) is mounted over the entry of the same
        name in the controller's C(/etc), as C(ip netns exec) does.
    type: string
    vars:
      - name: ansible_netns_etc
  run:
    description:
      - Directory of the controller that is mounted over C(/run), as an absolute path.
      - Without it, the host shares C(/run) with the controller.
    type: string
    vars:
      - name: ansible_netns_run
  hostname:
    description:
      - Host name that commands see.
      - Without it, they see the controller's.
    type: string
    vars:
      - name: ansible_netns_hostname
requirements:
  - C(ip) of iproute2 on the controller.
  - C(unshare) and C(mount) of util-linux on the controller.
notes:
  - Entering a namespace needs root, so Ansible itself must be run as root. Tasks then run as root,
    too; C(become) works inside of the namespace, and goes to other users without a password.
  - The fact C(ansible_service_mgr) names what runs the controller, since processes are shared.
extends_documentation_fragment:
  - connection_pipelining
"""

EXAMPLES = r"""
# inventory.yml: two namespaces, each with its own /etc and /run
web:
  hosts:
    web1:
    web2:
  vars:
    ansible_connection: flatnet.overlay.netns
    ansible_python_interpreter: /usr/bin/python3
    ansible_netns_name: "lab-{{ inventory_hostname }}"
    ansible_netns_etc: "/srv/lab/{{ inventory_hostname }}/etc"
    ansible_netns_run: "/srv/lab/{{ inventory_hostname }}/run"
    ansible_netns_hostname: "{{ inventory_hostname }}"
"""

import os
import subprocess
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_native
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display
from ansible_collections.flatnet.overlay.plugins.plugin_utils import netns

display = Display()


class Connection(ConnectionBase):
    """A network namespace of the controller."""

    transport = "flatnet.overlay.netns"
    has_pipelining = True
    has_tty = False

    def _connect(self) -> Connection:
        if not self._connected:
            self._check()
            display.vvv("USE NETWORK NAMESPACE", host=self.get_option("namespace"))
            self._connected = True
        return self

    def close(self) -> None:
        self._connected = False

    def reset(self) -> None:
        """Nothing is kept between commands, so there is nothing to reset."""
        self.close()
        self._connect()

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_native(cmd)}", host=self.get_option("namespace"))
        with self._popen(["/bin/sh", "-c", cmd]) as process:
            stdout, stderr = process.communicate(in_data)
        self._refuse_failed_entry(process.returncode, stderr)
        return process.returncode, stdout, stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        display.vvv(f"PUT {in_path} TO {out_path}", host=self.get_option("namespace"))
        # A process inside writes the file, so that /etc and /run are the namespace's own.
        argv = ["/bin/sh", "-c", 'cat >"$1"', "put", out_path]
        try:
            with open(to_bytes(in_path, errors="surrogate_or_strict"), "rb") as source:
                self._transfer(argv, "put", out_path, source)
        except FileNotFoundError as exc:
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}") from exc
        except OSError as exc:
            raise AnsibleError(f"cannot read {in_path}: {exc.strerror}") from exc

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self.get_option("namespace"))
        argv = ["cat", "--", in_path]
        try:
            with open(to_bytes(out_path, errors="surrogate_or_strict"), "wb") as sink:
                self._transfer(argv, "fetch", in_path, out=sink)
        except OSError as exc:
            raise AnsibleError(f"cannot write {out_path}: {exc.strerror}") from exc

    def _transfer(
        self,
        argv: list[str],
        verb: str,
        path: str,
        source: t.BinaryIO | None = None,
        out: t.BinaryIO | None = None,
    ) -> None:
        with self._popen(
            argv, stdin=source or subprocess.DEVNULL, stdout=out or subprocess.DEVNULL
        ) as process:
            stderr = process.communicate()[1]
        self._refuse_failed_entry(process.returncode, stderr)
        if process.returncode != 0:
            raise AnsibleError(
                f"failed to {verb} {path} in network namespace {self.get_option('namespace')!r}: "
                f"{to_native(stderr).strip()}"
            )

    def _popen(
        self, argv: list[str], stdin: t.Any = subprocess.PIPE, stdout: t.Any = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        self._check()
        command = netns.command(
            self.get_option("namespace"),
            argv,
            etc=self.get_option("etc"),
            run=self.get_option("run"),
            hostname=self.get_option("hostname"),
        )
        home = os.path.expanduser("~")
        try:
            return subprocess.Popen(
                [to_bytes(word, errors="surrogate_or_strict") for word in command],
                # Where a login would start, not wherever the controller happens to be.
                cwd=home if os.path.isdir(home) else "/",
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError as exc:
            raise AnsibleConnectionFailure(
                "the connection 'flatnet.overlay.netns' needs ip (package iproute2) on the "
                f"controller: {exc}"
            ) from exc

    def _check(self) -> None:
        try:
            netns.check(
                self.get_option("namespace"), self.get_option("etc"), self.get_option("run")
            )
        except netns.NamespaceError as exc:
            raise AnsibleConnectionFailure(str(exc)) from exc

    def _refuse_failed_entry(self, returncode: int, stderr: bytes) -> None:
        """A namespace that could not be entered is a lost host, not a task that failed."""
        text = to_native(stderr).strip()
        if returncode == netns.FAILED and text.startswith(netns.ENTRY_ERRORS):
            raise AnsibleConnectionFailure(
                f"cannot enter network namespace {self.get_option('namespace')!r}: "
                f"{text.replace(netns.FAILED_MARK, '')}"
            )
