#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a VXLAN device as it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vxlan_vtep
version_added: 0.1.0
short_description: A VXLAN device, this host's VTEP
description:
  - Makes a VXLAN device with these properties, and sets it up, or removes it. The defaults are
    those of flannel's device.
  - The kernel can change some properties of a live device, which are MTU, MAC address, master,
    addresses, O(learning), O(ttl), O(tos) and O(ageing). For any other change the device is made
    anew, with a warning that says why. It then gets back the addresses, permanent neighbours,
    permanent forwarding entries and routes that it had, but not what other tools attached to it,
    such as settings below C(/proc/sys) or filters.
  - A device of this name that is not a VXLAN is an error.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
requirements:
  - pyroute2 >= 0.7.2, on the host; in check mode only if the device exists
options:
  name:
    description:
      - The device's name. By default C(flannel.) and O(id).
    type: str
  id:
    description:
      - The VNI, 1 to 16777215.
    type: int
    default: 1
  dstport:
    description:
      - UDP port that all VTEPs of the overlay listen on.
    type: int
    default: 8472
  local:
    description:
      - The address of this host that packets are sent from.
      - Omitted, it is left as it is, or left to the kernel on a new device. An empty string removes
        it.
    type: str
  device:
    description:
      - The interface of the underlay that packets are sent through.
      - Omitted, it is left as it is, or left to the host's routes on a new device. An empty string
        removes it.
    type: str
  group:
    description:
      - Multicast group that frames without an entry of their own are sent to. Needs O(device).
      - Omitted, it is left as it is, or there is none on a new device. An empty string removes it.
    type: str
  learning:
    description:
      - Learn from received packets which VTEP a MAC address is behind.
    type: bool
    default: false
  proxy:
    description:
      - Answer ARP and ND requests from the device's own neighbours.
    type: bool
    default: false
  l2miss:
    description:
      - Tell listening programs of frames for a MAC address without an entry.
    type: bool
    default: false
  l3miss:
    description:
      - Tell listening programs of addresses without a neighbour. Goes with O(proxy).
    type: bool
    default: false
  rsc:
    description:
      - Short-circuit routes, in the kernel's words, which is to route on the device itself.
    type: bool
    default: false
  ttl:
    description:
      - TTL of the packets that are sent. V(0) leaves it to the kernel.
    type: int
    default: 0
  tos:
    description:
      - TOS of the packets that are sent. V(1) copies that of what is inside.
    type: int
    default: 0
  ageing:
    description:
      - Seconds after which learned entries are forgotten.
    type: int
    default: 300
  udpcsum:
    description:
      - Compute the UDP checksum of packets over IPv4.
    type: bool
    default: true
  udp6zerocsumtx:
    description:
      - Leave out the UDP checksum of packets over IPv6.
    type: bool
    default: false
  udp6zerocsumrx:
    description:
      - Take packets over IPv6 without a UDP checksum.
    type: bool
    default: false
  gbp:
    description:
      - Carry Group Based Policy marks. Both sides have to agree.
    type: bool
    default: false
  mtu:
    description:
      - The device's MTU, in bytes.
      - By default it is made to fit O(device), or the interface that has O(local), with 50 bytes
        less over IPv4 and 70 less over IPv6. With neither of the two it is left as it is.
    type: int
  mac:
    description:
      - The device's MAC address.
      - By default it is made from O(host_id) and O(id). So it stays the same, for peers too, after
        a reboot, and when the device is made anew.
    type: str
  host_id:
    description:
      - The host's identity, as for M(flatnet.overlay.flannel_subnet). By default made from
        C(/etc/machine-id).
    type: str
  master:
    description:
      - The bridge that the device is a port of.
      - Omitted, it is left as it is. An empty string detaches the device.
      - In check mode it may be missing, since an earlier task of the same run could make it.
    type: str
  addresses:
    description:
      - The device's addresses, each with its prefix length. Any other is removed. Link-local ones
        of IPv6 are the kernel's own and not looked at.
      - Omitted, they are left alone.
    type: list
    elements: str
  sole:
    description:
      - Whether a device that was made with another O(id) before is removed. This is a VXLAN device
        that is called C(flannel.) and its VNI, that has the MAC address that O(host_id) gives it or
        O(mac), and that has exactly O(addresses).
    type: bool
    default: false
  state:
    description:
      - V(absent) removes the device with all it holds. Only O(name) and O(id) are looked at.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.bridge
  - module: flatnet.overlay.fdb_entry
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: The VTEP that flannel would make
  flatnet.overlay.vxlan_vtep:
    local: 192.0.2.11
    device: eth0
    addresses: [10.5.72.0/32]

- name: A VXLAN that is a port of a bridge and floods to a multicast group
  flatnet.overlay.vxlan_vtep:
    name: vxlan42
    id: 42
    dstport: 4789
    device: eth0
    group: 239.1.1.42
    learning: true
    master: br42

- name: The VTEP is gone
  flatnet.overlay.vxlan_vtep:
    state: absent
"""

RETURN = r"""
link:
  description:
    - The device as it is, in check mode as it would be; null with O(state=absent).
    - Besides what is listed here it has the device's options, as C(ip -details link) names them.
  type: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
      returned: always
    kind:
      description: Its kind, V(vxlan).
      type: str
      returned: always
    mtu:
      description: Its MTU, in bytes.
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
    name: flannel.1
    kind: vxlan
    mtu: 1450
    mac: 02:42:0a:05:48:01
    master: ""
    up: true
    id: 1
    dstport: 8472
    local: 192.0.2.11
    dev: eth0
addresses:
  description: Its addresses.
  type: list
  elements: str
  returned: success
  sample: [10.5.72.0/32]
recreated:
  description: Why the device had to be made anew; empty if it had not.
  type: list
  elements: str
  returned: success
  sample: [dstport 8472 cannot become 4789 on a live device]
"""

from functools import partial

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.machine import identify
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.identity import vtep_mac
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.devices import (
    DeviceKernel,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import Address
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.links import (
    plan_link,
    remove_link,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.converge_link import (
    converge_link,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)

ARGUMENTS = {
    "name": {"type": "str"},
    "id": {"type": "int", "default": 1},
    "dstport": {"type": "int", "default": 8472},
    "local": {"type": "str"},
    "device": {"type": "str"},
    "group": {"type": "str"},
    "learning": {"type": "bool", "default": False},
    "proxy": {"type": "bool", "default": False},
    "l2miss": {"type": "bool", "default": False},
    "l3miss": {"type": "bool", "default": False},
    "rsc": {"type": "bool", "default": False},
    "ttl": {"type": "int", "default": 0},
    "tos": {"type": "int", "default": 0},
    "ageing": {"type": "int", "default": 300},
    "udpcsum": {"type": "bool", "default": True},
    "udp6zerocsumtx": {"type": "bool", "default": False},
    "udp6zerocsumrx": {"type": "bool", "default": False},
    "gbp": {"type": "bool", "default": False},
    "mtu": {"type": "int"},
    "mac": {"type": "str"},
    "host_id": {"type": "str"},
    "master": {"type": "str"},
    "addresses": {"type": "list", "elements": "str"},
    "sole": {"type": "bool", "default": False},
}


def present(module, kernel):
    """The plan for the device as asked for, carried out, and the result."""
    params = module.params
    # An identity that cannot be had matters only if the MAC address is made from it.
    sole = params["sole"]
    host_id = identify(params["host_id"]) if sole or not params["mac"] else ""
    mac = params["mac"] or vtep_mac(host_id, params["id"])
    asked = vtep.parse(params, mac)
    given = checks.interface_addresses("addresses", params["addresses"] or [])
    addresses = [Address(asked.name, each) for each in given]

    def compute(observed, held):
        interfaces = kernel.interfaces()
        if not module.check_mode:
            vtep.check_master(asked, interfaces)
        link = vtep.fit_to_host(asked, observed, interfaces, kernel.addresses())
        exclusive = params["addresses"] is not None
        plan = plan_link(link, observed, addresses, held, exclusive=exclusive)
        names = [name for name in interfaces if sole and name != asked.name]
        return plan._replace(changes=plan.changes + former(kernel, names, addresses, host_id, mac))

    return converge_link(module, kernel, asked.name, compute)


def former(kernel, names, addresses, host_id, mac):
    """The changes that remove what other VNIs have left."""
    changes = ()
    for name in names:
        number = name[len("flannel.") :]
        if not name.startswith("flannel.") or not number.isdecimal():
            continue
        link, macs = kernel.link(name), (mac, vtep_mac(host_id, int(number)))
        if vtep.is_former(link, kernel.addresses(name), addresses, macs):
            changes += remove_link("vxlan", link, kernel.entries_on(name)).changes
    return changes


def absent(module, kernel):
    name = vtep.name(module.params)
    return converge_link(module, kernel, name, partial(remove_link, "vxlan"))


def main():
    module = create(ARGUMENTS)
    with reporting(module), DeviceKernel() as kernel:
        act = present if module.params["state"] == "present" else absent
        planned, result = act(module, kernel)
        module.exit_json(recreated=list(planned.recreated), **result)


if __name__ == "__main__":
    main()
