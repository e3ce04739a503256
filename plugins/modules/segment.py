#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes an L2 segment true on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: segment
version_added: 0.1.0
short_description: This host's part of an L2 segment, one Ethernet stretched over VXLAN
description:
  - Makes, changes or removes all that a host has of an L2 segment, in one task. This is a bridge
    for containers to join, a VXLAN device as its port, and the forwarding entries (FDB) and
    neighbours of this device, computed from all members of the segment. Nothing else stays in these
    tables.
  - It needs no etcd and no flannel network.
  - The kernel can change most of a live VXLAN device. For a change to or from mode V(proxy) or
    V(multicast), or of the VNI or port, the device is made anew, with a warning that says why.
  - A VXLAN device that was not made by this module is never changed or removed. The module tells
    its own by their MAC address, which is made from O(host_id), O(vni) and O(name). A bridge that
    exists already is used as it is.
  - If O(vni), O(port), O(device) or O(bridge) of a segment changes, the former VXLAN device goes,
    and the former bridge if nobody uses it.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
requirements:
  - pyroute2 >= 0.7.2, on the host; in check mode only if the device exists
options:
  name:
    description:
      - The segment's name, for people. Up to 31 letters, digits, dots, dashes and underscores.
    type: str
    required: true
  vni:
    description:
      - The VNI, 1 to 16777215. It tells the segment from all others.
    type: int
    required: true
  port:
    description:
      - UDP port that all VTEPs of the segment listen on.
    type: int
    default: 4789
  mode:
    description:
      - V(static) has a forwarding entry for each member on another host. ARP and other broadcasts
        are sent to all hosts of the segment.
      - V(proxy) also has neighbours, from which the host answers ARP and neighbour solicitations
        itself. None of them leaves the host, so members have to be listed with their addresses.
      - V(flood) sends what it does not know to all hosts of the segment, and learns from what comes
        back. It needs no members.
      - V(multicast) sends what it does not know to O(group), and learns. It needs neither members
        nor the addresses of other hosts, but an underlay that carries multicast.
    type: str
    choices: [static, proxy, multicast, flood]
    default: static
  group:
    description:
      - The multicast group of mode V(multicast). Other modes ignore it.
    type: str
  replicate:
    description:
      - Whether broadcasts, multicasts, and frames for unknown MAC addresses are sent to all hosts
        of the segment. V(false) goes with mode V(proxy) only, where nothing unknown then leaves the
        host.
    type: bool
    default: true
  members:
    description:
      - All members of the segment, those on this host as well. The modes V(multicast) and V(flood)
        do not use them.
      - A member has C(mac), C(host), which is the host that it is behind as O(vteps) names it, and
        C(addresses), a list of IPv4 and IPv6 addresses without prefix length.
      - A list, or the same as JSON text, which costs Ansible less if there are thousands.
    type: json
    default: "[]"
  discovered:
    description:
      - What RV(flatnet.overlay.segment_info#module:members) was on the hosts of the segment, by the
        names of the hosts. It adds members that were seen behind the ports of bridges. What
        O(members) lists counts more.
      - If it is given, all hosts of O(vteps) have to be in it. A member that nobody sees keeps the
        entry that it has. What several hosts saw is left out, with a warning.
      - The modes V(multicast) and V(flood) do not use it. Mode V(proxy) refuses it.
    type: dict
  vteps:
    description:
      - All hosts of the segment by their names, each with its VTEP address, IPv4 or IPv6.
      - An address that is not known is empty. This is an error, which names the host, in all modes
        but V(multicast), because entries for its members would otherwise be lost.
      - Needed with O(state=present).
    type: dict
    default: {}
  host:
    description:
      - The name of this host in O(vteps). Needed with O(state=present).
    type: str
  bridge:
    description:
      - The bridge that containers join. By default C(br) and O(vni).
    type: str
  device:
    description:
      - The VXLAN device. By default C(vxlan) and O(vni).
    type: str
  mtu:
    description:
      - The MTU of the VXLAN device, and of the bridge if it is made. By default the underlay's,
        with 50 bytes less over IPv4 and 70 less over IPv6.
    type: int
  host_id:
    description:
      - The host's identity, as for M(flatnet.overlay.flannel_subnet). By default made from
        C(/etc/machine-id).
    type: str
  option_names:
    description:
      - The names that errors use for options. The role gives the names of its variables here.
    type: dict
    default: {}
  state:
    description:
      - V(absent) removes the VXLAN device with all it holds, and the bridge, if it was made for the
        segment and nobody uses it. What was not made for the segment stays, and RV(kept) says why.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.segment_info
  - module: flatnet.overlay.vxlan_vtep
  - module: flatnet.overlay.bridge
"""

EXAMPLES = r"""
- name: This host's part of a segment of two hosts
  flatnet.overlay.segment:
    name: blue
    vni: 100
    mode: proxy
    host: "{{ inventory_hostname }}"
    vteps:
      host1: 192.0.2.11
      host2: 192.0.2.12
    members:
      - {host: host1, mac: "02:00:00:00:00:01", addresses: [3.3.3.1, "fd00:3::1"]}
      - {host: host2, mac: "02:00:00:00:00:02", addresses: [3.3.3.2, "fd00:3::2"]}

- name: The host leaves the segment
  flatnet.overlay.segment:
    name: blue
    vni: 100
    state: absent
"""

RETURN = r"""
device:
  description: The VXLAN device.
  type: str
  returned: success
  sample: vxlan100
bridge:
  description: The bridge.
  type: str
  returned: success
  sample: br100
mtu:
  description: The MTU that containers of the segment can have at most.
  type: int
  returned: success, and O(state=present)
  sample: 1450
vtep:
  description: This host's VTEP address.
  type: str
  returned: success, and O(state=present)
  sample: 192.0.2.11
entries:
  description: How many forwarding entries and neighbours the VXLAN device holds.
  type: int
  returned: success
  sample: 3
recreated:
  description: Why the VXLAN device had to be made anew; empty if it had not.
  type: list
  elements: str
  returned: success
  sample: [proxy off cannot become on on a live device]
kept:
  description: What was not removed, and why; empty if there is no such thing.
  type: str
  returned: success
  sample: bridge br100 still has the ports veth1
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.machine import identify
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.bridging import (
    Bridging,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.devices import (
    DeviceKernel,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Fdb,
    Link,
    Neigh,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    diff,
    outcome,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import segments
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.discovered import (
    with_discovered,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    changing,
    create,
    reporting,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.segments import (
    Observed,
    change,
    former,
    removal,
)

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "vni": {"type": "int", "required": True},
    "port": {"type": "int", "default": segments.PORT},
    "mode": {"type": "str", "choices": list(segments.MODES), "default": "static"},
    "group": {"type": "str"},
    "replicate": {"type": "bool", "default": True},
    "members": {"type": "json", "default": "[]"},
    "discovered": {"type": "dict"},
    "vteps": {"type": "dict", "default": {}},
    "host": {"type": "str"},
    "bridge": {"type": "str"},
    "device": {"type": "str"},
    "mtu": {"type": "int"},
    "host_id": {"type": "str"},
    "option_names": {"type": "dict", "default": {}},
}


def parts(kernel, bridging, device, bridge):
    """What the host has of a VXLAN device and of a bridge; either may be empty."""
    link = kernel.link(device) if device else None
    found = kernel.link(bridge) if bridge else None
    return Observed(
        link,
        found,
        # Without routes: a port of a bridge has none, and the host may have thousands.
        kernel.entries_on(device, ()) if link else (),
        port=bridging.port(device) if link else None,
        ports=kernel.ports(bridge) if found else (),
        bridge_addresses=kernel.addresses(bridge) if found else (),
        above=bridging.above(device) if link else (),
        bridge_above=bridging.above(bridge) if found else (),
    )


def observe(kernel, bridging, segment, host_id):
    """What the host has of the segment, and what could be in its way."""
    observed = parts(kernel, bridging, segment.device, segment.bridge)
    link = observed.device
    tunnels = bridging.links("vxlan")
    # A bridge that stays the segment's is no former one.
    names = [(each.name, each.master) for each in former(segment, tunnels, host_id)]
    names += [("", link.master)] if link else []
    return observed._replace(
        learned=bridging.learned(link.name) if link and link.option.get("learning") else (),
        tunnels=tunnels,
        former=[
            parts(kernel, bridging, device, bridge if bridge != segment.bridge else "")
            for device, bridge in names
        ],
    )


def run(module, kernel, segment, host_id, compute):
    """Carry out what ``compute`` plans from what there is; exits."""
    looks = []

    def look():
        observed = observe(kernel, bridging, segment, host_id)
        looks.append((observed, compute(observed)))
        return looks[-1][1].changes

    with Bridging() as bridging, changing(module):
        changes = kernel.converge(look, module.check_mode)
    observed, planned = looks[0]
    there = [each for each in (observed.device, *observed.held) if each]
    after = outcome(changes, there)
    links = [each for each in after if isinstance(each, Link) and each.name == segment.device]
    for reason in planned.recreated:
        made = "would be" if module.check_mode else "was"
        module.warn("device %s %s made anew: %s" % (segment.device, made, reason))
    if planned.kept and changes:
        module.warn("kept: %s" % planned.kept)
    for text in planned.warnings:
        module.warn(text)
    taking_part = links and module.params["state"] == "present"
    present = {"mtu": links[0].mtu, "vtep": links[0].option["local"]} if taking_part else {}
    module.exit_json(
        changed=bool(changes),
        diff=diff(changes),
        device=segment.device,
        bridge=segment.bridge,
        entries=sum(isinstance(each, (Fdb, Neigh)) for each in after),
        recreated=list(planned.recreated),
        kept=planned.kept,
        **present,
    )


def present(module, kernel):
    params = module.params
    segment = segments.parse(params, params["vteps"])
    # Else all of them would be part of the result, as what the module was called with.
    params["members"] = "%d members" % len(segment.members)
    if params["discovered"] is not None:
        found = with_discovered(segment, params["discovered"], params["vteps"])
        segment = found.segment
        for text in found.warnings:
            module.warn(text)
    vteps = segments.locate(segment, params["host"], params["vteps"])
    host_id = identify(params["host_id"])

    def compute(observed):
        interfaces, addresses = kernel.interfaces(), kernel.addresses()
        return change(segment, vteps, observed, host_id, interfaces, addresses)

    run(module, kernel, segment, host_id, compute)


def absent(module, kernel):
    params = module.params
    names = ("name", "vni", "device", "bridge")
    segment = segments.parse({name: params[name] for name in names})
    host_id = identify(params["host_id"])
    run(module, kernel, segment, host_id, lambda observed: removal(segment, observed, host_id))


def main():
    module = create(ARGUMENTS, required_if=[("state", "present", ("host",))])
    act = present if module.params["state"] == "present" else absent
    with reporting(module), DeviceKernel() as kernel:
        act(module, kernel)


if __name__ == "__main__":
    main()
