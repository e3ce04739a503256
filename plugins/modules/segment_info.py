#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads what a host has to tell the other hosts of its L2 segments."""

from __future__ import annotations

DOCUMENTATION = r"""
module: segment_info
version_added: 0.1.0
short_description: Reads this host's VTEP address, and who is behind the ports of its bridges
description:
  - Returns the address at which the other hosts of its L2 segments reach this host. If asked, it
    also returns the members of the segments on this host.
  - Changes nothing.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
options:
  vtep:
    description:
      - The VTEP address, if it is known already. Then it is only checked that the host has it.
    type: str
  interface:
    description:
      - The underlay's interface, by its name (V(eth1)), by an address it has (V(192.0.2.11)), or by
        a prefix that its address is in (V(192.0.2.0/24)).
      - With none of O(vtep), O(interface), O(interface_regex) and O(can_reach), it is the one that
        the default route leaves by; without a default route, the only one with an IPv4 address.
        VXLAN devices and the bridges of O(segments) do not count.
    type: str
  interface_regex:
    description:
      - The underlay's interface, by a regular expression that must match exactly one name whole.
    type: str
  can_reach:
    description:
      - The underlay's interface, by an IPv4 address that is routed through it.
    type: str
  segments:
    description:
      - Segments whose members on this host are read, each with C(name), C(vni) and, if it is not
        named after the VNI, C(bridge), as for M(flatnet.overlay.segment). Other keys are ignored. A
        bridge that is not there has null for members.
    type: list
    elements: dict
    default: []
  joined:
    description:
      - The names of all segments that this host takes part in. Then the module warns of VXLAN
        devices that were made for other ones and are still there. If there is none, RV(vtep) is
        empty.
    type: list
    elements: str
  host_id:
    description:
      - The host's identity, as for M(flatnet.overlay.segment).
    type: str
  option_names:
    description:
      - The names that errors use for options. The role gives the names of its variables here.
    type: dict
    default: {}
seealso:
  - module: flatnet.overlay.segment
"""

EXAMPLES = r"""
- name: Read the VTEP address, and who is on br100
  flatnet.overlay.segment_info:
    interface: 192.0.2.0/24
    segments:
      - {name: blue, vni: 100}
"""

RETURN = r"""
vtep:
  description: The VTEP address.
  type: str
  returned: success
  sample: 192.0.2.11
interface:
  description: The interface that has it.
  type: str
  returned: success
  sample: eth0
left:
  description: VXLAN devices that were made for segments which are not in O(joined).
  type: list
  elements: str
  returned: success
  sample: [vxlan100]
members:
  description:
    - By segment, the members behind the ports of its bridge, but for its VXLAN devices, and the
      bridge itself if it has addresses. Null if there is no bridge.
    - A bridge forgets a member that has been silent for five minutes. The addresses are those that
      the host has spoken with.
  type: dict
  returned: success
  sample:
    blue:
      - mac: "02:00:00:00:00:01"
        addresses: [3.3.3.1]
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.machine import identify
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.bridging import (
    Bridging,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.links import (
    device_with,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.reader import (
    KernelReader,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import (
    segments,
    underlay,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.segments import (
    left as segments_left,
)

ARGUMENTS = {
    "vtep": {"type": "str"},
    "interface": {"type": "str"},
    "interface_regex": {"type": "str"},
    "can_reach": {"type": "str"},
    "segments": {"type": "list", "elements": "dict", "default": []},
    "joined": {"type": "list", "elements": "str"},
    "host_id": {"type": "str"},
    "option_names": {"type": "dict", "default": {}},
}
NAMING = ("name", "vni", "bridge", "device")
EXCLUSIVE = [("interface", "interface_regex", "can_reach")]


def place(kernel, params, own):
    """The VTEP address and its interface, which is none of our ``own`` devices."""
    addresses = kernel.addresses()
    if params["vtep"]:
        vtep = checks.address("vtep", params["vtep"])
        return vtep, device_with("vtep", vtep, addresses)
    found = underlay.choose(
        kernel.interfaces(),
        addresses,
        kernel.routes(foreign=True),
        interface=params["interface"],
        pattern=params["interface_regex"],
        can_reach=params["can_reach"],
        ignore=own,
    )
    return found.ip, found.interface


def members(kernel, bridging, bridge, tunnels):
    """Who is behind the bridge's ports on this host; None if there is no bridge."""
    link = kernel.link(bridge)
    if link is None or link.kind != "bridge":
        return None
    known = {}
    for neigh in bridging.heard(bridge):
        known.setdefault(neigh.mac, []).append(neigh.address)
    found = {
        mac: known.get(mac, [])
        for port, mac in bridging.behind(bridge)
        if port not in tunnels and not int(mac[:2], 16) & 1
    }
    own = [each.address.partition("/")[0] for each in kernel.addresses(bridge)]
    if own:
        found[link.mac] = own
    return [{"mac": mac, "addresses": sorted(found[mac])} for mac in sorted(found)]


def left_over(module, tunnels):
    """Devices of segments that the host is not in any more, each with a warning."""
    joined = module.params["joined"]
    if joined is None or not tunnels:
        return []
    found = segments_left(joined, tunnels, identify(module.params["host_id"]))
    for link in found:
        module.warn(
            "device %s, with VNI %d, was made for a segment that this host is not in any more; "
            "unless this run takes it over for another one, remove it: ip link delete %s"
            % (link.name, link.option["id"], link.name)
        )
    return [link.name for link in found]


def main():
    module = create(ARGUMENTS, state=False, mutually_exclusive=EXCLUSIVE)
    params = module.params
    with reporting(module), KernelReader() as kernel, Bridging() as bridging:
        links = bridging.links("vxlan")
        tunnels = [link.name for link in links]
        asked = [{name: each.get(name) for name in NAMING} for each in params["segments"]]
        bridges = {each.name: each.bridge for each in map(segments.parse, asked)}
        vtep, interface = "", ""
        if params["joined"] is None or params["joined"]:
            vtep, interface = place(kernel, params, [*tunnels, *bridges.values()])
        module.exit_json(
            changed=False,
            left=left_over(module, links),
            vtep=vtep,
            interface=interface,
            members={
                name: members(kernel, bridging, each, tunnels) for name, each in bridges.items()
            },
        )


if __name__ == "__main__":
    main()
