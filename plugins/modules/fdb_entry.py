#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a VXLAN device hold forwarding entries."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fdb_entry
version_added: 0.1.0
short_description: Forwarding (FDB) entries of a VXLAN device
description:
  - Adds or removes permanent forwarding entries of a VXLAN device. Such an entry says to which
    VTEP, that is to which address of the underlay, frames for a MAC address are sent.
  - Takes one entry, or a list of thousands that goes to the kernel as one batch.
  - Entries that the device learned, and the destination that it has from its own multicast group,
    are never touched.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
requirements:
  - pyroute2 >= 0.7.2, on the host
options:
  device:
    description:
      - The VXLAN device.
      - In check mode it may be missing, since an earlier task of the same run could make it.
    type: str
    required: true
  mac:
    description:
      - The MAC address that frames are for.
      - The kernel keeps one destination for a unicast address. A multicast address has a list of
        destinations, each of which gets a copy. So has V(00:00:00:00:00:00), which stands for every
        frame without an entry of its own.
      - Needed unless O(entries) is given. The options of a single entry and O(entries) exclude each
        other.
    type: str
  dst:
    description:
      - The address of the VTEP that frames are sent to, of the family of the device's own.
      - Needed with O(state=present). With O(state=absent) it may be left out for a unicast
        address.
    type: str
  port:
    description:
      - UDP port of that VTEP. By default the device's own.
    type: int
  vni:
    description:
      - VNI to send with. By default the device's own.
    type: int
  via:
    description:
      - Interface of the underlay to send through. By default the device's own, or the one that the
        host's routes name.
    type: str
  src_vni:
    description:
      - VNI that frames come from. Only for a device made with C(external), which has none itself.
    type: int
  entries:
    description:
      - Several entries, in place of the options of a single one.
    type: list
    elements: dict
    suboptions:
      mac:
        description: As O(mac).
        type: str
        required: true
      dst:
        description: As O(dst).
        type: str
      port:
        description: As O(port).
        type: int
      vni:
        description: As O(vni).
        type: int
      via:
        description: As O(via).
        type: str
      src_vni:
        description: As O(src_vni).
        type: int
  exclusive:
    description:
      - Remove all other permanent entries of the device. With an empty O(entries), all.
    type: bool
    default: false
  state:
    description:
      - V(present) makes the entries be there; a unicast address that has another destination gets
        this one.
      - V(absent) removes what has all the given properties.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_peers
  - module: flatnet.overlay.neigh_entry
  - module: flatnet.overlay.vxlan_vtep
"""

EXAMPLES = r"""
- name: Frames for this VTEP's MAC address go to its host
  flatnet.overlay.fdb_entry:
    device: flannel.1
    mac: 02:42:0a:05:5e:01
    dst: 192.0.2.12

- name: Whatever has no entry of its own goes to these two hosts, and there are no other entries
  flatnet.overlay.fdb_entry:
    device: vxlan42
    entries:
      - mac: 00:00:00:00:00:00
        dst: 192.0.2.12
      - mac: 00:00:00:00:00:00
        dst: 192.0.2.13
        port: 4789
    exclusive: true

- name: Forget where this MAC address is, wherever that was
  flatnet.overlay.fdb_entry:
    device: flannel.1
    mac: 02:42:0a:05:5e:01
    state: absent
"""

RETURN = r"""
entries:
  description:
    - The entries asked for in canonical form, without what the device has itself, such as its own
      port.
  type: list
  elements: dict
  returned: success
  sample:
    - mac: 02:42:0a:05:5e:01
      dst: 192.0.2.12
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
    "mac": {"type": "str"},
    "dst": {"type": "str"},
    "port": {"type": "int"},
    "vni": {"type": "int"},
    "via": {"type": "str"},
    "src_vni": {"type": "int"},
}
ARGUMENTS = {
    "device": {"type": "str", "required": True},
    **ENTRY,
    "entries": {
        "type": "list",
        "elements": "dict",
        "options": {**ENTRY, "mac": {"type": "str", "required": True}},
    },
    "exclusive": {"type": "bool", "default": False},
}


def main():
    module = create(ARGUMENTS)
    params = module.params
    with reporting(module), Kernel() as kernel:
        entries = entry_options.fdb(params)
        link = kernel.link(params["device"])
        if link:
            entries = entry_options.settle(entries, link)
        if params["state"] == "present" and not module.check_mode:
            entry_options.exist(entry_options.FDB, params, entries, kernel.interfaces())
        converge(
            module,
            kernel,
            lambda: entry_changes.changes(
                entry_options.FDB, params, entries, kernel.fdb(params["device"])
            ),
            entries=entry_options.results(entry_options.FDB, entries),
        )


if __name__ == "__main__":
    main()
