#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leases this host's subnet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flannel_subnet
version_added: 0.1.0
short_description: This host's lease of a subnet
description:
  - Makes this host hold exactly one valid lease under C(<etcd_prefix>/subnets), as C(flanneld)
    would write it, with the machine's identity added in a field that flannel ignores.
  - A host keeps its subnet when its public IP changes. If its lease was lost, it usually gets the
    same subnet again. Any number of hosts may run this at the same time.
  - A lease that a C(flanneld) wrote for this host's public IP is adopted with its subnet.
  - Leases are permanent unless O(ttl) is given.
  - The lease of the V(vxlan) backend names the MAC address of the VTEP, which
    M(flatnet.overlay.vxlan_vtep) gives to the device by the same rule.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
  - flatnet.overlay.etcd
  - flatnet.overlay.host
options:
  subnet:
    description:
      - Lease this subnet and no other.
      - A host that holds another one moves to it only with O(move=true).
    type: str
  move:
    description:
      - Let a host that holds a lease have another subnet, if O(subnet) names another one, if the
        network does not lease the host's subnet, or if an older lease of another host overlaps it.
      - Without it, a host keeps its subnet, whatever else is in etcd. A task that would have to
        move the host fails before it changes anything.
      - The new lease is written before the old one is removed. If other addresses or ports of
        O(bridge) are in the way, the task fails before that.
    type: bool
    default: false
  bridge:
    description:
      - The bridge that is to get RV(gateway). Before a subnet is leased, the task checks whether
        the bridge can get it.
    type: str
  subnet_file:
    description:
      - File with C(FLANNEL_SUBNET), as flannel and this collection write it. A host without a lease
        gets that subnet again if it is free.
    type: path
    default: /run/flannel/subnet.env
  vtep_mac:
    description:
      - MAC address of the host's VTEP.
      - By default it is made from O(host_id) and the network's VNI, and is the same after every
        reboot.
    type: str
  vector:
    description:
      - With the backend V(udp), whether the lease says that this host's relay takes vectors. Other
        relays of this collection then send it vectors; see M(flatnet.overlay.tun_relay).
    type: bool
    default: true
  ttl:
    description:
      - Bind the lease to an etcd lease of so many seconds, which every run of this module renews.
      - V(0) makes it permanent.
    type: int
    default: 0
  takeover:
    description:
      - Take over the lease of another machine that recorded this host's public IP or host id.
      - A lease that records this host's id and name, but another address, is this host's own, from
        before its address changed. If a machine still answers at that address, that machine may be
        a clone made from the same image, so this option is needed for its lease as well.
    type: bool
    default: false
  ipmasq:
    description:
      - The value of C(FLANNEL_IPMASQ) in RV(subnet_env). It tells the container runtime whether
        somebody else masquerades what leaves the overlay.
    type: bool
    default: false
  planned:
    description:
      - What earlier tasks of the same run would have written. It is used in check mode only,
        because it is not in etcd then.
    type: dict
    suboptions:
      config:
        description: The RV(flatnet.overlay.flannel_network#module:config).
        type: dict
      leases:
        description: Leases of other hosts, each as RV(lease).
        type: list
        elements: dict
  state:
    description:
      - V(absent) releases the lease that records this host's identity. A lease written by a
        C(flanneld) stays.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_network
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: Lease a subnet for this host
  flatnet.overlay.flannel_subnet:
    etcd_endpoints: [http://192.0.2.2:2379]
  register: subnet

- name: The container bridge, with the subnet's gateway address
  flatnet.overlay.bridge:
    name: cni0
    addresses: ["{{ subnet.gateway }}"]
    mtu: "{{ subnet.mtu }}"

- name: Meet peers through the second network card, and insist on a subnet
  flatnet.overlay.flannel_subnet:
    interface: eth1
    subnet: 10.5.94.0/24

- name: Give the subnet back
  flatnet.overlay.flannel_subnet:
    state: absent
"""

RETURN = r"""
lease:
  description: This host's lease; with O(state=absent) the one released, empty if there was none.
  type: dict
  returned: success
  contains:
    subnet: {description: The prefix., type: str, sample: 10.5.94.0/24}
    key: {description: The etcd key., type: str, sample: /coreos.com/network/subnets/10.5.94.0-24}
    value: {description: The etcd value., type: dict}
    public_ip: {description: Where peers reach this host., type: str, sample: 192.0.2.11}
    backend_type: {description: 'V(vxlan), V(host-gw), or empty.', type: str}
    vni: {description: The VXLAN network identifier., type: int}
    vtep_mac: {description: 'MAC address of the VTEP, with V(vxlan).', type: str}
    host_id: {description: The machine's identity., type: str}
    hostname: {description: The machine's name., type: str}
    permanent: {description: Whether it has no TTL., type: bool}
config:
  description: The network's config with flannel's field names.
  type: dict
  returned: O(state=present)
backend:
  description: The network's backend with its defaults filled in, and what it needs of a host.
  type: dict
  returned: O(state=present)
  contains:
    type: {description: 'V(vxlan), V(host-gw), V(udp) or V(alloc).', type: str}
    device: {description: 'The device that carries the overlay, if any.', type: str}
    vni: {description: The VXLAN network identifier., type: int}
    port: {description: 'The UDP port, if any.', type: int}
    gbp: {description: Group based policy extension., type: bool}
    learning: {description: Whether the device learns., type: bool}
    direct_routing: {description: Plain routes on one link., type: bool}
    mtu: {description: 'MTU of the underlay that the config says, if it does.', type: int}
    carries:
      description:
        - Whether the collection makes what carries packets to peers. If not, as with V(alloc),
          there is neither device nor bridge.
      type: bool
    maker:
      description: The module that makes the device, such as V(vxlan_vtep); empty if there is none.
      type: str
    relay: {description: Whether the process flatnet-relay has to run., type: bool}
    untunnelled:
      description: Whether packets of peers' pods may come without a tunnel around them.
      type: bool
    modules: {description: Kernel modules that it needs., type: list, elements: str}
    device_names:
      description: >-
        Patterns of the names of all backends' devices, which the system's services have to leave
        alone.
      type: list
      elements: str
      sample: [flannel*]
    fixed_macs:
      description: Patterns of the names of devices whose MAC address must not change.
      type: list
      elements: str
      sample: [flannel.*]
underlay:
  description: The interface and address that this host meets its peers with.
  type: dict
  returned: O(state=present)
  sample: {interface: eth0, address: 192.0.2.11/24, ip: 192.0.2.11, mtu: 1500, why: default route}
former:
  description:
    - Addresses that O(bridge) has of subnets that this host had before, for
      O(flatnet.overlay.bridge#module:former).
  type: list
  elements: str
  returned: O(state=present)
  sample: []
gateway:
  description: The host's own address in its subnet, for the container bridge.
  type: str
  returned: O(state=present)
  sample: 10.5.94.1/24
vtep_address:
  description: The address of the backend's device.
  type: str
  returned: O(state=present)
  sample: 10.5.94.0/32
mtu:
  description: MTU of the overlay in bytes.
  type: int
  returned: O(state=present)
  sample: 1450
subnet_env:
  description: The content of C(subnet.env), exactly as flannel writes it.
  type: str
  returned: O(state=present)
transactions:
  description: How many etcd transactions it took to write the lease; more than 1 after a lost race.
  type: int
  returned: O(state=present)
"""

import ipaddress

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends import known
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp.backend import (
    VECTOR,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel import subnet_env
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import gateway
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.machine import identify
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.reader import (
    KernelReader,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases import (
    acquire,
    release,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import overlap
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.lease_checks import (
    LeaseChecks,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    HOST_ARGUMENTS,
    HOST_EXCLUSIVE,
    PLANNED_ARGUMENT,
    lease_result,
    observe,
    parse_planned,
    registry,
    show_lease,
)

ARGUMENTS = {
    "subnet": {"type": "str"},
    "subnet_file": {"type": "path", "default": "/run/flannel/subnet.env"},
    "move": {"type": "bool", "default": False},
    "bridge": {"type": "str"},
    "vtep_mac": {"type": "str"},
    "vector": {"type": "bool", "default": True},
    "ttl": {"type": "int", "default": 0},
    "takeover": {"type": "bool", "default": False},
    "ipmasq": {"type": "bool", "default": False},
    "planned": PLANNED_ARGUMENT,
    **HOST_ARGUMENTS,
}
# etcd's own bounds: shorter times it rounds up by itself, longer ones it refuses.
TTL_MIN = 5
TTL_MAX = 9000000000


def absent(module, store):
    """Release this host's lease."""
    host_id = identify(module.params["host_id"])
    if module.check_mode:
        leases = store.snapshot().of_host(host_id)
    else:
        leases = release.release(store, host_id)
    return {
        "changed": bool(leases),
        "lease": lease_result(leases[0], store.prefix) if leases else {},
        "diff": {"before": show_lease(store.prefix, *leases), "after": ""},
    }


def present(module, store, kernel):
    """Acquire this host's lease."""
    option = module.params
    planned = parse_planned(module)
    location = observe(module, kernel, planned.config or store.config())
    host = location.host._replace(
        vtep_mac=option["vtep_mac"], vector=VECTOR if option["vector"] else 0
    )
    networks = (ipaddress.ip_interface(each.address).network for each in location.addresses)
    wish = Wish(
        subnet=option["subnet"],
        prefer=overlap.remembered(option["subnet_file"]),
        avoid=tuple(map(str, networks)),
        takeover=option["takeover"],
        move=option["move"],
    )
    ready = LeaseChecks(option, kernel, host)
    if module.check_mode:
        outcome = acquire.preview(store, host, wish, option["ttl"], planned, ready.approve)
    else:
        outcome = acquire.acquire(store, host, wish, option["ttl"], ready.approve)
    for note in outcome.decision.notes:
        module.warn(note)
    return result(option, store.prefix, location.underlay, outcome, ready.former)


def result(option, prefix, underlay, outcome, former):
    """The module's result: the lease, and what follows from it for this host."""
    config, backend, decision = outcome.config, outcome.config.backend, outcome.decision
    # In check mode there is no etcd lease yet; what would be written has one if there is a TTL.
    lease = decision.after._replace(etcd_lease=option["ttl"])
    mtu = backend.overlay_mtu(underlay.mtu)
    before = [each for each in (decision.before, *decision.surplus) if each]
    return {
        "changed": outcome.changed,
        "lease": lease_result(lease, prefix),
        "config": config.to_dict(),
        "backend": known.describe(backend),
        "underlay": {**underlay._asdict(), "ip": underlay.ip},
        "former": former,
        "gateway": gateway(lease.subnet),
        "vtep_address": lease.subnet.partition("/")[0] + "/32",
        "mtu": mtu,
        "subnet_env": subnet_env.render(config, lease, mtu, option["ipmasq"]),
        "transactions": outcome.transactions,
        "diff": {"before": show_lease(prefix, *before), "after": show_lease(prefix, lease)},
    }


def check(option):
    """Raise InvalidInput for what no host could do; addresses become canonical."""
    if option["subnet"]:
        option["subnet"] = checks.network("subnet", option["subnet"])
    if option["vtep_mac"]:
        option["vtep_mac"] = checks.mac("vtep_mac", option["vtep_mac"])
    if option["ttl"]:
        checks.number("ttl", option["ttl"], TTL_MIN, TTL_MAX)
    if option["state"] == "absent":
        if option["subnet"]:
            raise InvalidInput("subnet: goes with state=present only; absent releases every lease")
    elif option["bridge"]:
        checks.device("bridge", option["bridge"])


def main():
    module = create({**ARGUMENTS, **ETCD_ARGUMENTS}, mutually_exclusive=HOST_EXCLUSIVE)
    with reporting(module):
        check(module.params)
        with registry(module) as store, KernelReader() as kernel:
            if module.params["state"] == "absent":
                done = absent(module, store)
            else:
                done = present(module, store, kernel)
        module.exit_json(**done)


if __name__ == "__main__":
    main()
