#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a device hold static neighbours."""

from __future__ import annotations

DOCUMENTATION = r"""
module: neigh_entry
version_added: 0.1.0
short_description: Static ARP and ND entries of a device
description:
  - Adds or removes permanent neighbours of a device. Such an entry says which MAC address an IPv4
    or IPv6 address has, so that the kernel need not ask for it.
  - Takes one entry, or a list of thousands that goes to the kernel as one batch.
  - What the kernel learned by asking is not touched, unless an entry takes its place.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
options:
  device:
    description:
      - The device that the neighbours are on.
      - In check mode it may be missing, since an earlier task of the same run could make it.
    type: str
    required: true
  address:
    description:
      - The neighbour's IPv4 or IPv6 address.
      - Needed unless O(entries) is given. The options of a single entry and O(entries) exclude each
        other.
    type: str
  mac:
    description:
      - The neighbour's MAC address.
      - Needed with O(state=present).
    type: str
  entries:
    description:
      - Several entries, in place of the options of a single one.
    type: list
    elements: dict
    suboptions:
      address:
        description: As O(address).
        type: str
        required: true
      mac:
        description: As O(mac).
        type: str
  exclusive:
    description:
      - Remove all other permanent neighbours of the device. With an empty O(entries), all.
    type: bool
    default: false
  state:
    description:
      - V(present) makes the entries be there.
      - V(absent) removes what has all the given properties.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.fdb_entry
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: A peer's VTEP answers to this MAC address
  flatnet.overlay.neigh_entry:
    device: flannel.1
    address: 10.5.94.0
    mac: 02:42:0a:05:5e:01

- name: These are the permanent neighbours, and there are no others
  flatnet.overlay.neigh_entry:
    device: flannel.1
    entries:
      - address: 10.5.94.0
        mac: 02:42:0a:05:5e:01
      - address: fd00:10:5:94::1
        mac: 02:42:0a:05:5e:01
    exclusive: true

- name: Forget all permanent neighbours
  flatnet.overlay.neigh_entry:
    device: flannel.1
    entries: []
    exclusive: true
"""

RETURN = r"""
entries:
  description: The entries asked for, in canonical form.
  type: list
  elements: dict
  returned: success
  sample:
    - address: 10.5.94.0
      mac: 02:42:0a:05:5e:01
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import Kernel
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import (
    entry_changes,
    entry_options,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.converge import converge
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)

ENTRY = {
    "address": {"type": "str"},
    "mac": {"type": "str"},
}
ARGUMENTS = {
    "device": {"type": "str", "required": True},
    **ENTRY,
    "entries": {
        "type": "list",
        "elements": "dict",
        "options": {**ENTRY, "address": {"type": "str", "required": True}},
    },
    "exclusive": {"type": "bool", "default": False},
}


def main():
    module = create(ARGUMENTS)
    params = module.params
    with reporting(module), Kernel() as kernel:
        entries = entry_options.neigh(params)
        if params["state"] == "present" and not module.check_mode:
            entry_options.exist(entry_options.NEIGH, params, entries, kernel.interfaces())
        converge(
            module,
            kernel,
            lambda: entry_changes.changes(
                entry_options.NEIGH, params, entries, kernel.neighbours(params["device"])
            ),
            entries=entry_options.results(entry_options.NEIGH, entries),
        )


if __name__ == "__main__":
    main()
