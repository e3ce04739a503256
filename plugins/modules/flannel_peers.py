#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes this host reach every other lease."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flannel_peers
version_added: 0.1.0
short_description: This host reaches every other lease
description:
  - Makes this host's kernel hold exactly what it needs to reach all other hosts of the network. It
    reads the leases at one etcd revision, and changes the kernel in one batch.
  - With the V(vxlan) backend a peer is a neighbour and a forwarding (FDB) entry of the VXLAN
    device, and a route through it. With V(host-gw), and with direct routing for peers on the same
    link, a peer is only a route. With V(udp) it is a line of the relay's table, which a running
    relay then uses; the route of the whole network belongs to M(flatnet.overlay.tun_relay). With
    V(alloc) no lease is a peer, and what reached peers with an earlier backend is removed.
  - Stale entries are removed. Ours are routes of protocol 110 in the main table, and all entries on
    the overlay's device. Nothing else is ever changed. If a route of somebody else has a peer's
    place, it is adopted if it says the same; otherwise it is an error.
  - Leases that no host should act upon are not used. A warning names them. Such a lease is, for
    example, outside the network, overlaps a network that this host is connected to, or is not valid
    JSON. If a key's value is not a valid lease, the kernel's entries for its subnet stay.
  - A subnet has to be one that the network leases, between its C(SubnetMin) and C(SubnetMax) and of
    its C(SubnetLen). A subnet that was leased under an older config is used as well, if its key in
    etcd is older than the config's last change. If leases overlap, the older one is used.
  - A lease is not used if it covers an address of etcd, of this host's gateways, resolvers or time
    servers, or the address that this host is managed from over SSH.
  - If the kernel refuses what one lease needs, all other leases are used all the same. The run then
    fails and names that lease.
  - Changes nothing if etcd cannot be read, or does not name this host's own lease.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
  - flatnet.overlay.etcd
  - flatnet.overlay.host
options:
  allow_no_peers:
    description:
      - Remove the last peers too. Without it, nothing is removed if the network has no other lease
        while this host still reaches peers, because information may be missing.
    type: bool
    default: false
  snapshot:
    description:
      - The config and the leases, for a host that cannot read them in etcd itself. It is what
        M(flatnet.overlay.flannel_subnet_info) returned on another host.
    type: dict
    suboptions:
      config:
        description: The network's config.
        type: dict
        required: true
      leases:
        description: All leases.
        type: list
        elements: dict
        required: true
      revision:
        description:
          - etcd's revision at which they were read. If a higher revision was applied to this host
            since, nothing is changed, and there is a warning. With V(0) they are used in any case.
        type: int
        default: 0
      config_revision:
        description:
          - etcd's revision at which the config was last changed. It tells leases of an older
            config, which are used all the same, from leases that no config ever allowed.
        type: int
        default: 0
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
        description: Leases, each as RV(flatnet.overlay.flannel_subnet#module:lease).
        type: list
        elements: dict
  state:
    description:
      - V(absent) removes all peers from this host's kernel, or its relay's table. The devices stay.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_subnet
  - module: flatnet.overlay.vxlan_vtep
  - module: flatnet.overlay.tun_relay
"""

EXAMPLES = r"""
- name: Reach every other host of the network
  flatnet.overlay.flannel_peers:
    etcd_endpoints: [http://192.0.2.2:2379]

- name: Read the leases once for hosts that cannot reach etcd
  flatnet.overlay.flannel_subnet_info:
    etcd_endpoints: [http://192.0.2.2:2379]
  delegate_to: localhost
  run_once: true
  register: network

- name: Reach every other host with these leases
  flatnet.overlay.flannel_peers:
    snapshot:
      config: "{{ network.config }}"
      leases: "{{ network.leases }}"
      revision: "{{ network.revision }}"
      config_revision: "{{ network.config_revision }}"

- name: Reach nobody any more
  flatnet.overlay.flannel_peers:
    state: absent
"""

RETURN = r"""
peers:
  description: How many peers this host reaches; with V(alloc) none.
  type: int
  returned: success, unless newer leases were applied already
unused:
  description: Leases and keys that are not used, with the reason.
  type: list
  elements: str
  returned: success
refused:
  description: What the kernel refuses, each with its lease; all else was done.
  type: list
  elements: str
  returned: when the kernel refuses something
revision:
  description: etcd's revision at which the leases were read.
  type: int
  returned: success
device:
  description: The overlay's device; null where there is none.
  type: str
  returned: success
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp import (
    relay_table,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import (
    current_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import (
    Kernel,
    KernelError,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.snapshot import (
    Listing,
    Snapshot,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import applied, peers
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Adjacency,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.converge import (
    Around,
    converge,
    converge_apart,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
    warn_each,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    HOST_ARGUMENTS,
    HOST_EXCLUSIVE,
    PLANNED_ARGUMENT,
    observe,
    parse_config,
    parse_leases,
    parse_planned,
    registry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.rules import rules

ARGUMENTS = {
    "allow_no_peers": {"type": "bool", "default": False},
    "snapshot": {
        "type": "dict",
        "options": {
            "config": {"type": "dict", "required": True},
            "leases": {"type": "list", "elements": "dict", "required": True},
            "revision": {"type": "int", "default": 0},
            "config_revision": {"type": "int", "default": 0},
        },
    },
    "planned": PLANNED_ARGUMENT,
    **HOST_ARGUMENTS,
}
# How often leases are read, if somebody else has applied newer ones each time.
TRIES = 5


class NoLease(FlatnetError):
    """This host's own lease is not among those that etcd names."""


def read(module):
    """The config and the leases, from the option snapshot or from etcd."""
    planned = parse_planned(module)
    given = module.params["snapshot"]
    if given:
        config = parse_config("snapshot.config", given["config"])
        leases = parse_leases("snapshot.leases", given["leases"])
        snapshot = Snapshot(given["revision"], leases, ())
        found = Listing(config, snapshot, given["config_revision"])
    else:
        with registry(module) as store:
            found = store.listing(planned.config)
    return found._replace(snapshot=planned.added_to(found.snapshot))


def own_lease(snapshot, host):
    lease = current_lease(snapshot.leases, host)
    if lease is None:
        raise NoLease(
            "etcd names no lease of this host, %s, among its %d leases; nothing was changed; "
            "lease a subnet with flannel_subnet first" % (host, len(snapshot.leases))
        )
    return lease


def reach(module, kernel, listing, known):
    """Make the kernel reach all usable leases; exits. Raises Outdated: see applied.check."""
    config, snapshot = listing.config, listing.snapshot
    backend = config.backend
    location = observe(module, kernel, config)
    own = own_lease(snapshot, location.host)
    chosen = rules(module, kernel, listing, own, location).select(snapshot.leases)
    if backend.device and not module.check_mode and backend.device not in kernel.interfaces():
        raise KernelError(
            "device %s does not exist; make it with %s first" % (backend.device, backend.maker)
        )

    leases = {lease.key_name: lease for lease in chosen.usable}
    owners = {}

    def compute(failed):
        routes = routes_of_peers(kernel, config)
        usable = [lease for name, lease in leases.items() if name not in failed]
        wanted = peers.entries(config, usable, location.underlay, routes)
        return peers.changes(
            wanted,
            backend.device,
            tunnel_entries(kernel, backend),
            routes,
            unreadable=snapshot.unreadable,
            # A relay has its peers in its table; of some backends there are none.
            allow_no_peers=module.params["allow_no_peers"]
            or bool(chosen.usable)
            or not backend.carries,
            # A relay's are its module's.
            network_routes=() if backend.relay else peers.network_routes(config),
        )

    def part(change):
        """The lease that a change is for. A change for no present lease is a part of its own."""
        if not owners:
            link = Adjacency(location.underlay, kernel.routes())
            for name, lease in leases.items():
                owners.update((entry.key, name) for entry in peers.encode(config, [lease], link))
        entry = change.before if change.after is None else change.after
        return owners.get(entry.key) or str(entry)

    def name(found):
        lease = leases.get(found)
        return "lease %s of %s" % (lease.subnet, lease.owner) if lease else "what is stale"

    relay = relayed(module, config, chosen.usable, snapshot)

    def look():
        other = relay.revision if relay else 0
        if not applied.check(config.network, snapshot.revision, other, known):
            module.warn(
                "etcd is at revision %d, and revision %d was applied to this host before; etcd was "
                "restored or made anew; what it has now is used" % (snapshot.revision, known)
            )

    converge_apart(
        module,
        kernel,
        compute,
        part,
        name,
        relay=relay,
        around=Around(look, lambda: applied.note(config.network, snapshot.revision)),
        peers=len(chosen.usable),
        unused=warn_each(module, (*snapshot.garbage, *chosen.skipped), "leases are not used"),
        revision=snapshot.revision,
        device=backend.device,
    )


def routes_of_peers(kernel, config):
    """The main table's routes, without those that belong to the relay."""
    left = set()
    if config.backend.relay:
        left = {route.key for route in peers.network_routes(config)}
    return [route for route in kernel.routes() if route.key not in left]


def relayed(module, config, usable, snapshot):
    """What the relay's table takes, if there is a relay."""
    if not config.backend.relay:
        return None
    present = module.params["state"] == "present"
    return relay_table.TableRun(
        usable,
        snapshot.unreadable if present else (),
        snapshot.revision,
        module.params["allow_no_peers"] or not present,
    )


def tunnel_entries(kernel, backend):
    """Neighbours and FDB entries of the overlay's device."""
    if not backend.device:
        return []
    return kernel.neighbours(backend.device) + kernel.fdb(backend.device)


def leave(module, kernel, listing, dummy):
    """Remove all peers; exits."""
    config, snapshot = listing.config, listing.snapshot
    backend = config.backend

    def compute():
        routes = routes_of_peers(kernel, config)
        return peers.changes((), backend.device, tunnel_entries(kernel, backend), routes)

    converge(
        module,
        kernel,
        compute,
        relay=relayed(module, config, (), snapshot),
        around=Around(lambda: None, lambda: applied.note(config.network, 0)),
        peers=0,
        unused=[],
        revision=snapshot.revision,
        device=backend.device,
    )


def leave_newer(module, listing, outdated):
    """Change nothing, since newer leases were applied than those that were read; exits."""
    if module.params["snapshot"]:
        way = "take a newer snapshot, or leave out its revision, so that it is used in any case"
    else:
        way = (
            "leases change all the time, and another program here, such as flatnet-sync, is faster"
        )
    module.warn("%s; nothing was changed; %s" % (outdated, way))
    module.exit_json(
        changed=False,
        diff={"before": "", "after": ""},
        unused=[],
        revision=outdated.newest,
        device=listing.config.backend.device,
    )


def main():
    module = create({**ARGUMENTS, **ETCD_ARGUMENTS}, mutually_exclusive=HOST_EXCLUSIVE)
    act = reach if module.params["state"] == "present" else leave
    known = 0
    with reporting(module), Kernel() as kernel:
        for left in reversed(range(1 if module.params["snapshot"] else TRIES)):
            listing = read(module)
            try:
                act(module, kernel, listing, known)
            except applied.Outdated as outdated:
                if not left:
                    leave_newer(module, listing, outdated)
                known = outdated.newest


if __name__ == "__main__":
    main()
