#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a bridge with its addresses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bridge
version_added: 0.1.0
short_description: The bridge that a host's containers are on
description:
  - Makes a bridge with these properties, and sets it up, or removes it. All properties are changed
    in place, and the bridge's ports are not touched.
  - It is an error if the bridge has an address that is not listed, of a family that is listed. Such
    an address usually remains from another subnet. O(exclusive) removes it.
  - A device of this name that is not a bridge is an error.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
requirements:
  - pyroute2 >= 0.7.2, on the host; in check mode only if the bridge exists
options:
  name:
    description:
      - The bridge's name.
    type: str
    required: true
  addresses:
    description:
      - The bridge's addresses, each with its prefix length. Link-local ones of IPv6 are the
        kernel's own and not looked at.
      - Omitted, they are left alone.
    type: list
    elements: str
  former:
    description:
      - Addresses that the bridge had for a former subnet of this host. They are removed if they are
        there. This is refused while the bridge has ports.
      - See RV(flatnet.overlay.flannel_subnet#module:former).
    type: list
    elements: str
    default: []
  exclusive:
    description:
      - Remove all other addresses from the bridge. Needs O(addresses).
    type: bool
    default: false
  mtu:
    description:
      - The bridge's MTU, in bytes. It then stays the same when ports come and go.
      - Omitted, it is left alone. The kernel gives a new bridge the smallest MTU of its ports.
    type: int
  mac:
    description:
      - The bridge's MAC address.
      - Omitted, a new bridge gets one made from O(host_id) and O(name), so that a reboot does not
        change it. An existing bridge keeps its own.
    type: str
  host_id:
    description:
      - The host's identity, as for M(flatnet.overlay.flannel_subnet). By default made from
        C(/etc/machine-id).
    type: str
  stp:
    description:
      - Whether the bridge speaks the spanning tree protocol.
      - Omitted, it is left alone. The kernel's new bridges do not.
    type: bool
  force:
    description:
      - With O(state=absent), remove the bridge even if it has ports, which then have no bridge.
    type: bool
    default: false
  state:
    description:
      - V(absent) removes the bridge with all it holds.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.vxlan_vtep
"""

EXAMPLES = r"""
- name: The bridge of this host's containers has the subnet's gateway address
  flatnet.overlay.bridge:
    name: cni0
    addresses: [10.5.72.1/24]
    mtu: 1450

- name: The subnet changed, and the bridge follows
  flatnet.overlay.bridge:
    name: cni0
    addresses: [10.5.94.1/24]
    former: [10.5.72.1/24]

- name: The bridge is gone, unless something is plugged into it
  flatnet.overlay.bridge:
    name: cni0
    state: absent
"""

RETURN = r"""
link:
  description:
    - The bridge as it is, in check mode as it would be; null with O(state=absent).
    - Besides what is listed here it has the bridge's options, as C(ip -details link) names them.
  type: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
    kind:
      description: Its kind, V(bridge).
      type: str
      returned: always
    mtu:
      description: Its MTU, in bytes. Null in check mode where it is left to the kernel.
      type: int
      returned: always
    mac:
      description: Its MAC address.
      type: str
      returned: always
    master:
      description: The device that it is a port of; empty if none.
      type: str
      returned: always
    up:
      description: Whether it is up.
      type: bool
      returned: always
  sample:
    name: cni0
    kind: bridge
    mtu: 1450
    mac: 02:42:0a:05:48:01
    master: ""
    up: true
    stp: false
addresses:
  description: Its addresses.
  type: list
  elements: str
  returned: success
  sample: [10.5.72.1/24]
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.machine import identify
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.identity import (
    stable_mac,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.devices import (
    DeviceKernel,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import bridges
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.converge_link import (
    converge_link,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "addresses": {"type": "list", "elements": "str"},
    "former": {"type": "list", "elements": "str", "default": []},
    "exclusive": {"type": "bool", "default": False},
    "mtu": {"type": "int"},
    "mac": {"type": "str"},
    "host_id": {"type": "str"},
    "stp": {"type": "bool"},
    "force": {"type": "bool", "default": False},
}


def main():
    module = create(ARGUMENTS)
    params = module.params
    with reporting(module), DeviceKernel() as kernel:
        asked = bridges.parse(params)
        if params["host_id"] is not None:
            identify(params["host_id"])

        def compute(observed, held):
            name = asked.link.name
            if params["state"] == "absent":
                return bridges.removal(asked, observed, held, kernel.ports(name))
            mac = None
            if observed is None and params["mac"] is None:
                mac = stable_mac(identify(params["host_id"]), "bridge " + name)
            return bridges.change(asked, observed, held, mac, lambda: kernel.ports(name))

        dummy, result = converge_link(module, kernel, asked.link.name, compute)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
