# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible inventory of a lab, in the form of inventories/demo."""

from __future__ import annotations

import json
import typing as t

from .host import Host


def inventory(name: str, hosts: t.Sequence[Host], variables: t.Mapping[str, t.Any]) -> str:
    """YAML with the hosts in group flatnet; values are JSON, which is YAML, too."""
    lines = ["---", "flatnet:", "  hosts:"]
    for host in hosts:
        lines += [f"    {host.name}:", f"      ansible_host: {host.address}"]
    lines.append("  vars:")
    if hosts:
        own = "{{ inventory_hostname }}"
        directory = str(hosts[0].directory.parent)
        variables = {
            "ansible_connection": "flatnet.overlay.netns",
            "ansible_netns_name": f"{name}-{own}",
            "ansible_netns_etc": f"{directory}/{own}/etc",
            "ansible_netns_run": f"{directory}/{own}/run",
            "ansible_netns_hostname": own,
            # Hosts share the file system but for /etc and /run, and the machine has it, too.
            "flatnet_sync_prefix": "/etc/flatnet",
            "flatnet_sync_state_file": "/etc/flatnet/state",
            "flatnet_relay_table_file": "/etc/flatnet/relay-table.json",
            **variables,
        }
    lines += [f"    {key}: {json.dumps(value)}" for key, value in variables.items()]
    return "\n".join(lines) + "\n"
