#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a host hold routes of our protocol."""

from __future__ import annotations

DOCUMENTATION = r"""
module: route_entry
version_added: 0.1.0
short_description: Routes of one protocol number
description:
  - Adds or removes routes. The kernel records with a route who made it, as a protocol number, which
    C(ip route) prints as C(proto). Routes with O(protocol) are ours. No others are changed or
    removed.
  - A route's place is its prefix, table and metric. If somebody else's route stands in the place of
    one that is asked for, it is adopted if the two are the same apart from the protocol. Otherwise
    that is an error, and nothing is changed.
  - Takes one route, or a list of thousands that goes to the kernel as one batch.
  - Makes unicast routes with one next hop.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
options:
  prefix:
    description:
      - The IPv4 or IPv6 prefix that the route is for, without host bits.
      - Needed unless O(entries) is given. The options of a single route and O(entries) exclude each
        other, except for O(device).
    type: str
  gateway:
    description:
      - The next hop's address. Without one, the destinations are on the device's own link.
      - The next hop of an IPv4 route may be an IPv6 address.
    type: str
  device:
    description:
      - The device that packets leave by. Together with O(entries), that of all of them, and
        O(exclusive) removes only routes through it.
      - Needed with O(state=present), here or in the entry.
      - In check mode it may be missing, since an earlier task of the same run could make it.
    type: str
  onlink:
    description:
      - Use O(gateway) as if it were on the link, although no address of the device says so. By
        default the kernel checks this.
    type: bool
  mtu:
    description:
      - MTU of the route, in bytes. By default the device's own.
    type: int
  src:
    description:
      - The address of this host that packets get as their source where they have none.
    type: str
  metric:
    description:
      - The metric, of which the lowest wins. V(0), the default, means the kernel's own, which is 0
        for IPv4 and 1024 for IPv6.
    type: int
  table:
    description:
      - Number of the routing table. V(254) is the main table.
    type: int
    default: 254
  protocol:
    description:
      - Number that makes the routes ours. V(110) is the number of this collection.
        M(flatnet.overlay.flannel_peers) removes all other routes with this number from the main
        table, so give yours another number on a host where it runs.
    type: int
    default: 110
  entries:
    description:
      - Several routes, in place of the options of a single one.
    type: list
    elements: dict
    suboptions:
      prefix:
        description: As O(prefix).
        type: str
        required: true
      gateway:
        description: As O(gateway).
        type: str
      device:
        description: As O(device).
        type: str
      onlink:
        description: As O(onlink).
        type: bool
      mtu:
        description: As O(mtu).
        type: int
      src:
        description: As O(src).
        type: str
      metric:
        description: As O(metric).
        type: int
  exclusive:
    description:
      - Remove all other routes of O(protocol) from O(table), or those of them through O(device) if
        that is given. With an empty O(entries), all.
    type: bool
    default: false
  state:
    description:
      - V(present) makes the routes be there.
      - V(absent) removes routes of O(protocol) in O(table) that have all the given properties.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: A peer's subnet is behind its VTEP
  flatnet.overlay.route_entry:
    prefix: 10.5.94.0/24
    gateway: 10.5.94.0
    device: flannel.1
    onlink: true

- name: These subnets are behind neighbours on the link, and there are no other routes of ours here
  flatnet.overlay.route_entry:
    device: eth0
    entries:
      - prefix: 10.5.94.0/24
        gateway: 192.0.2.12
      - prefix: 10.5.95.0/24
        gateway: 192.0.2.13
    protocol: 111
    exclusive: true

- name: Remove a subnet's route, whichever way it goes
  flatnet.overlay.route_entry:
    prefix: 10.5.94.0/24
    state: absent
"""

RETURN = r"""
entries:
  description: The routes asked for, in canonical form.
  type: list
  elements: dict
  returned: success
  sample:
    - prefix: 10.5.94.0/24
      gateway: 10.5.94.0
      device: flannel.1
      onlink: true
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
    "prefix": {"type": "str"},
    "gateway": {"type": "str"},
    "device": {"type": "str"},
    "onlink": {"type": "bool"},
    "mtu": {"type": "int"},
    "src": {"type": "str"},
    "metric": {"type": "int"},
}
ARGUMENTS = {
    **ENTRY,
    "table": {"type": "int", "default": 254},
    "protocol": {"type": "int", "default": 110},
    "entries": {
        "type": "list",
        "elements": "dict",
        "options": {**ENTRY, "prefix": {"type": "str", "required": True}},
    },
    "exclusive": {"type": "bool", "default": False},
}


def main():
    module = create(ARGUMENTS)
    params = module.params
    with reporting(module), Kernel() as kernel:
        entries = entry_options.routes(params)
        if params["state"] == "present" and not module.check_mode:
            entry_options.exist(entry_options.ROUTE, params, entries, kernel.interfaces())
        converge(
            module,
            kernel,
            lambda: entry_changes.route_changes(params, entries, kernel.routes(params["table"])),
            entries=entry_options.results(entry_options.ROUTE, entries),
        )


if __name__ == "__main__":
    main()
