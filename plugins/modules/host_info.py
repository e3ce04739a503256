#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells what a host has of what the overlay needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
version_added: 0.1.0
short_description: What a host has of what the overlay needs
description:
  - Looks at everything that a host needs before it is prepared, in one task. So a host that lacks
    nothing takes one task.
  - Fails if the overlay's network overlaps what the host uses otherwise, so that such a host is
    left out before anything is changed.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
options:
  commands:
    description: Commands to look for.
    type: list
    elements: str
    default: []
  modules:
    description: Kernel modules to look for; by default those that a backend may need.
    type: list
    elements: str
  files:
    description: Files to look for.
    type: list
    elements: str
    default: []
  sysctls:
    description: Kernel parameters to look for that are numbers, as V(net.core.rmem_max).
    type: list
    elements: str
    default: []
  services:
    description: Services that may have to read new configuration.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the systemd unit.
        type: str
        required: true
      config:
        description: Files that the service reads when it starts or reloads; shell patterns count.
        type: list
        elements: str
        default: []
  overlay:
    description:
      - The network that this host is to take part in, to see whether its subnets overlap the host's
        own networks, its gateways, its resolvers or members of etcd.
      - What is not a network at all is left to M(flatnet.overlay.flannel_network) to refuse.
    type: dict
    suboptions:
      network:
        description: As of M(flatnet.overlay.flannel_network), like the next four.
        type: raw
      subnet_len:
        description: Prefix length of a host's subnet.
        type: raw
      subnet_min:
        description: First address of the first subnet.
        type: raw
      subnet_max:
        description: First address of the last subnet.
        type: raw
      backend:
        description: How packets travel between hosts.
        type: raw
      bridge:
        description: The overlay's bridge, whose addresses are no conflict.
        type: str
      subnet_file:
        description: File with C(FLANNEL_SUBNET), the subnet that the host has already.
        type: path
      etcd_endpoints:
        description: URLs of the etcd members.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: See what the host has
  flatnet.overlay.host_info:
    commands: [fping]
    modules: [vxlan, bridge]
    services:
      - name: systemd-networkd
        config: [/etc/systemd/networkd.conf.d/flatnet.conf]
  register: host
"""

RETURN = r"""
python:
  description: The interpreter that modules run under on this host.
  type: str
  returned: success
  sample: /usr/bin/python3
pyroute2_error:
  description: Why it cannot import pyroute2; empty if it can.
  type: str
  returned: success
distribution:
  description: The distribution and those it is like, the nearest first, as os-release names them.
  type: list
  elements: str
  returned: success
  sample: [ubuntu, debian]
missing_commands:
  description: Commands that are not there.
  type: list
  elements: str
  returned: success
loadable_modules:
  description: Kernel modules of O(modules) that are files, not part of the kernel.
  type: list
  elements: str
  returned: success
unloaded_modules:
  description: Those of them that are not loaded.
  type: list
  elements: str
  returned: success
files:
  description: Those of O(files) that are there.
  type: list
  elements: str
  returned: success
sysctls:
  description: Those of O(sysctls) that can be set on this host, and their values.
  type: dict
  returned: success
  sample: {net.core.rmem_max: 212992}
ip_forward:
  description: Whether the host forwards IPv4.
  type: bool
  returned: success
systemd:
  description: Whether systemd runs the host.
  type: bool
  returned: success
networkd:
  description: Whether the host has systemd-networkd, running or not.
  type: bool
  returned: success
network_drop_ins:
  description:
    - For each interface that systemd-networkd configures from a file, where a drop-in of ours for
      that file goes.
  type: list
  elements: str
  returned: success
  sample: [/etc/systemd/network/eth0.network.d/flatnet.conf]
networkmanager:
  description: Whether the host has NetworkManager, running or not.
  type: bool
  returned: success
running:
  description: Services of O(services) that run.
  type: list
  elements: str
  returned: success
stale:
  description: Those of them that have not read their configuration since it changed.
  type: list
  elements: str
  returned: success
"""

import glob
import importlib
import json
import os
import re
import stat
import sys
import time

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends import known
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    InvalidConfig,
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import overlap
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)

FIELDS = {
    "network": "Network",
    "subnet_len": "SubnetLen",
    "subnet_min": "SubnetMin",
    "subnet_max": "SubnetMax",
}
ARGUMENTS = {
    "commands": {"type": "list", "elements": "str", "default": []},
    "modules": {"type": "list", "elements": "str"},
    "files": {"type": "list", "elements": "str", "default": []},
    "sysctls": {"type": "list", "elements": "str", "default": []},
    "services": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "config": {"type": "list", "elements": "str", "default": []},
        },
    },
    "overlay": {
        "type": "dict",
        "options": {
            **{name: {"type": "raw"} for name in (*FIELDS, "backend")},
            "bridge": {"type": "str"},
            "subnet_file": {"type": "path"},
            "etcd_endpoints": {"type": "list", "elements": "str", "default": []},
        },
    },
}
OURS = "10-flatnet.network"
NETWORKD = ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def pyroute2_error():
    """Why pyroute2 cannot be imported; empty if it can."""
    try:
        importlib.import_module("pyroute2").IPRoute  # noqa: B018  (0.9 looks it up only now)
    except Exception as error:  # noqa: BLE001  (a broken installation can raise anything)
        return "%s: %s" % (type(error).__name__, error)
    return ""


def distribution():
    """ID and ID_LIKE of os-release(5)."""
    found = dict(
        re.findall(r"^(ID|ID_LIKE)=[\"']?([^\"'\n]*)", read("/etc/os-release"), re.MULTILINE)
    )
    return found.get("ID", "linux").split() + found.get("ID_LIKE", "").split()


def loadable(names):
    """Modules that are files of the running kernel, and those of them that are not loaded."""
    index = read("/lib/modules/%s/modules.dep" % os.uname().release)
    files = [
        name
        for name in names
        if re.search(r"(^|/)%s\.ko\S*:" % re.escape(name), index, re.MULTILINE)
    ]
    return files, [name for name in files if not os.path.isdir("/sys/module/" + name)]


def sysctls(names):
    """Values of kernel parameters; some are there in a network namespace, and cannot be set."""
    paths = {name: "/proc/sys/" + name.replace(".", "/") for name in names}
    return {
        name: int(read(path))
        for name, path in paths.items()
        if os.path.exists(path) and os.stat(path).st_mode & stat.S_IWUSR
    }


def services(module, wanted):
    """Those that run; and those whose configuration is newer than what they read."""
    systemctl = module.get_bin_path("systemctl")
    if not wanted or not systemctl:
        return [], []
    names = [each["name"] + ".service" for each in wanted]
    shown = "--property=ActiveState,StateChangeTimestampMonotonic"
    # A reload changes the state for a moment, as a restart does.
    answer = module.run_command([systemctl, "show", shown, *names], check_rc=True)[1]
    running, stale = [], []
    for each, text in zip(wanted, answer.split("\n\n")):
        values = dict(line.partition("=")[::2] for line in text.split())
        if values.get("ActiveState") != "active":
            continue
        running.append(each["name"])
        age = time.monotonic() - int(values["StateChangeTimestampMonotonic"]) / 1e6
        paths = [path for pattern in each["config"] for path in glob.glob(pattern)]
        changed = [os.stat(path).st_mtime for path in paths]
        if changed and max(changed) > time.time() - age:
            stale.append(each["name"])
    return running, stale


def network_drop_ins(module):
    """Drop-ins for the .network files in use; none before systemd 250, which tells no JSON."""
    networkctl = module.get_bin_path("networkctl")
    if not networkctl:
        return []
    code, answer, _error = module.run_command([networkctl, "--json=short", "list"])
    try:
        links = json.loads(answer)["Interfaces"] if code == 0 else []
    except ValueError:
        links = []
    files = {os.path.basename(link["NetworkFile"]) for link in links if link.get("NetworkFile")}
    # Ours says that our devices are not networkd's.
    return ["/etc/systemd/network/%s.d/flatnet.conf" % name for name in sorted(files - {OURS})]


def check_overlap(option):
    """Raise what names whatever is in the overlay's way on this host."""
    fields = {FIELDS[name]: option[name] for name in FIELDS}
    if str(option["subnet_len"]).isdecimal():
        fields["SubnetLen"] = int(option["subnet_len"])
    backend = option["backend"]
    if isinstance(backend, dict):
        fields["Backend"] = {"Type": backend.get("type", known.DEFAULT)}
    try:
        config = config_from_dict(fields)
        seen = overlap.observe(option["etcd_endpoints"])
    except (InvalidConfig, ValueError):
        return
    own = overlap.remembered(option["subnet_file"]) if option["subnet_file"] else None
    overlap.check(config, seen, option["bridge"], [own] if own else [])


def main():
    module = create(ARGUMENTS, state=False)
    option = module.params
    if option["overlay"]:
        with reporting(module):
            check_overlap(option["overlay"])
    files, unloaded = loadable(known.modules() if option["modules"] is None else option["modules"])
    systemd = os.path.isdir("/run/systemd/system")
    running, stale = services(module, option["services"]) if systemd else ([], [])
    module.exit_json(
        changed=False,
        python=sys.executable,
        pyroute2_error=pyroute2_error(),
        distribution=distribution(),
        missing_commands=[name for name in option["commands"] if not module.get_bin_path(name)],
        loadable_modules=files,
        unloaded_modules=unloaded,
        files=[path for path in option["files"] if os.path.exists(path)],
        sysctls=sysctls(option["sysctls"]),
        ip_forward=read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        systemd=systemd,
        networkd=systemd and any(os.path.exists(path) for path in NETWORKD),
        network_drop_ins=network_drop_ins(module) if "systemd-networkd" in running else [],
        networkmanager=os.path.isdir("/etc/NetworkManager"),
        running=running,
        stale=stale,
    )


if __name__ == "__main__":
    main()
