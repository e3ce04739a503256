#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps a host right when no playbook runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flatnet_sync
version_added: 0.1.0
short_description: The program that keeps a host in the overlay
description:
  - Installs C(flatnet-sync) on a host and runs it. It brings the overlay back at boot without etcd
    and without a controller, follows the leases in etcd, and repairs what drifts.
  - The program is the core of this collection and comes to the host with the module. It is a
    package of its own below O(prefix), which only root can write, and which is replaced in one
    step. If the program or its settings change, it is started anew.
  - It uses no lease that covers an address which the host needs. One of these is the address that
    this module's SSH session comes from. The program's settings keep this address, unless it is
    reached through the overlay, like a controller in a pod.
  - The program itself has to say that it runs, and not too long ago; otherwise it is started anew.
    Its errors, such as an etcd that does not answer, become warnings of the module.
  - Two controllers that do this on one host at once take turns.
  - If systemd runs the host, systemd runs the program. On other hosts a small supervisor runs it,
    and starts it again when it ends. There, whatever boots the host has to run C(flatnet-sync
    restore).
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
  - flatnet.overlay.etcd
  - flatnet.overlay.host
options:
  mode:
    description:
      - V(service) follows etcd all the time.
      - V(timer) compares everything every O(check_interval) seconds, and follows nothing.
      - V(none) only restores at boot. It restores the network as it was at the last run of this
        module, which compares everything once.
    type: str
    choices: [service, timer, none]
    default: service
  units:
    description:
      - The texts of systemd's units, by their names, for a host that systemd runs. For every mode
        C(flatnet-restore.service), for V(service) C(flatnet-sync.service), for V(timer)
        C(flatnet-sync.timer) and C(flatnet-sync-once.service). Others are ignored.
      - The role P(flatnet.overlay.sync#role) renders them.
    type: dict
    default: {}
  prefix:
    description:
      - Where the program is, in C(lib/flatnet-sync), and its command, in C(sbin).
    type: path
    default: /usr/local
  python:
    description:
      - The interpreter to run it with, which can import pyroute2.
      - By default the one that runs the module.
    type: path
  bridge:
    description:
      - The bridge that pods join, if the overlay has one.
    type: str
  vtep_mac:
    description:
      - MAC address of the VTEP, as for M(flatnet.overlay.flannel_subnet).
    type: str
  ttl:
    description:
      - Seconds that the lease lives without being renewed, as for
        M(flatnet.overlay.flannel_subnet); it is renewed here.
    type: int
    default: 0
  subnet_file:
    description:
      - Where container runtimes look for the host's subnet.
    type: path
    default: /run/flannel/subnet.env
  ipmasq:
    description:
      - What O(subnet_file) says of masquerading.
    type: bool
    default: false
  sysctls:
    description:
      - Kernel parameters to set at boot, with their values; of the network, C(net.) only.
    type: dict
    default: {}
  state_file:
    description:
      - Where the state is kept that is restored at boot.
      - Nobody but root may be able to write in its directory.
    type: path
    default: /var/lib/flatnet/state
  metrics_file:
    description:
      - Where to write metrics for node_exporter's textfile collector; by default nowhere.
      - Its directory may be another user's. No symbolic link of such a user is followed on the way.
    type: path
  check_interval:
    description:
      - Seconds between comparisons of everything, whether or not something seems to have changed.
    type: float
    default: 60.0
  retention:
    description:
      - Seconds that peers are kept after etcd lost its history and does not name them any more.
    type: float
    default: 600.0
  restore_wait:
    description:
      - Seconds that are waited at boot for the underlay's address.
    type: float
    default: 30.0
  state:
    description:
      - V(absent) removes the program, its units, settings and state. What the kernel holds stays.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: Keep the host in the overlay
  flatnet.overlay.flatnet_sync:
    etcd_endpoints: [http://192.0.2.2:2379]
    bridge: cni0
    sysctls:
      net.ipv4.ip_forward: 1
    units:
      flatnet-restore.service: "{{ lookup('ansible.builtin.template', 'restore.service.j2') }}"
      flatnet-sync.service: "{{ lookup('ansible.builtin.template', 'sync.service.j2') }}"

- name: Remove the program; the overlay stays as it is
  flatnet.overlay.flatnet_sync:
    state: absent
"""

RETURN = r"""
version:
  description: The collection's version and what identifies the program's sources; null if removed.
  type: str
  returned: success
  sample: 0.1.0-3fb0c8d2a1e4
command:
  description: Path of the command.
  type: str
  returned: success
restarted:
  description: Whether the program was, or in check mode would be, started.
  type: bool
  returned: success
sync:
  description: What the program says about itself, as C(flatnet-sync status --json).
  type: dict
  returned: success, and not in check mode
"""

import os
import sys

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import package, sync
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.installation import (
    Installation,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import diff
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.target import Target
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.route_lookup import (
    apart,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.needs import (
    controllers,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.settings import (
    Settings,
    parse,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
    taking_turns,
    warn_each,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    HOST_ARGUMENTS,
    HOST_EXCLUSIVE,
    registry,
)

DEFAULT = Settings()
SETTINGS = {
    "bridge": {"type": "str"},
    "vtep_mac": {"type": "str"},
    "ttl": {"type": "int", "default": DEFAULT.ttl},
    "subnet_file": {"type": "path", "default": DEFAULT.subnet_file},
    "ipmasq": {"type": "bool", "default": DEFAULT.ipmasq},
    "sysctls": {"type": "dict", "default": {}},
    "state_file": {"type": "path", "default": DEFAULT.state_file},
    "metrics_file": {"type": "path"},
    "check_interval": {"type": "float", "default": DEFAULT.check_interval},
    "retention": {"type": "float", "default": DEFAULT.retention},
    "restore_wait": {"type": "float", "default": DEFAULT.restore_wait},
}
ARGUMENTS = {
    "mode": {"type": "str", "choices": ["service", "timer", "none"], "default": "service"},
    "units": {"type": "dict", "default": {}},
    "prefix": {"type": "path", "default": "/usr/local"},
    "python": {"type": "path"},
    **SETTINGS,
    **HOST_ARGUMENTS,
}


def settings(module, target):
    """The program's settings, checked; the options of this module are named as they are."""
    option = module.params
    found = {name: option[name] for name in SETTINGS}
    found["sysctls"] = {name: str(value) for name, value in option["sysctls"].items()}
    found["choice"] = {name: option[name] for name in HOST_ARGUMENTS}
    found["etcd"] = {name[len("etcd_") :]: option[name] for name in ETCD_ARGUMENTS}
    found["controllers"] = sync.managed_from(target, apart(controllers()))
    with registry(module):  # says what is wrong with an option; talks to nobody
        return parse(found)


def program(module):
    """The program as the task wants it: there, or removed."""
    option = module.params
    if not os.path.isabs(option["prefix"]):
        raise InvalidInput("prefix: %s is not an absolute path" % option["prefix"])
    if option["state"] == "absent":
        return sync.Absent(Target(option["prefix"], "sync"))
    target = Target(option["prefix"], "sync", option["python"] or sys.executable)
    request = sync.Request(settings(module, target), option["mode"], option["units"])
    return sync.Present(target, request)


def report(module, installation):
    """Exit with what the program says."""
    changed = bool(installation.steps)
    result = {} if module.check_mode else installation.outcome()
    if "sync" in result:
        status = result["sync"]
        warn_each(module, [each["text"] for each in status.get("errors", ())], "errors of the sync")
        # With mode none the program has run to its end, as part of this run.
        changed = changed or (module.params["mode"] == "none" and bool(status.get("changes")))
    module.exit_json(
        changed=changed,
        version=package.version("sync") if module.params["state"] == "present" else None,
        command=installation.command,
        restarted=installation.restarts,
        diff=diff(installation.steps),
        **result,
    )


def main():
    module = create({**ARGUMENTS, **ETCD_ARGUMENTS}, mutually_exclusive=HOST_EXCLUSIVE)
    with reporting(module):
        with taking_turns(module):
            # What is to be installed depends on the settings that are there.
            installation = Installation.observe(program(module))
            if not module.check_mode:
                installation.apply()
        report(module, installation)


if __name__ == "__main__":
    main()
