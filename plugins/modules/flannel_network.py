#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the network's config to etcd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flannel_network
version_added: 0.1.0
short_description: The overlay network's config in etcd
description:
  - Makes C(<etcd_prefix>/config) hold the network's config, in the form that C(flanneld) reads.
  - Run it once for the fleet, on any host that reaches etcd.
  - A config that means the same stays as it is, whatever its spelling.
  - Refuses a change if leases that fit the network now would not fit it afterwards, or would be
    outside of it.
  - Refuses a network whose subnets overlap what this host uses otherwise, such as its own networks,
    gateways, resolvers and members of etcd.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
  - flatnet.overlay.etcd
options:
  network:
    description:
      - The IPv4 network that every host gets its subnet from, such as V(10.5.0.0/16).
      - Host bits are masked.
      - Required with O(state=present).
    type: str
  subnet_len:
    description:
      - Prefix length of a host's subnet, at most 30 and at least that of O(network) plus 2.
      - By default 24, or that of O(network) plus 2 where that is smaller than a /22.
    type: int
  subnet_min:
    description:
      - First address of the first subnet that may be leased; by default the second subnet.
    type: str
  subnet_max:
    description:
      - First address of the last subnet that may be leased; by default the last subnet.
    type: str
  enable_ipv6:
    description:
      - Whether hosts get an IPv6 subnet too.
      - This version of the collection writes such a config, and refuses to lease subnets under it.
    type: bool
    default: false
  ipv6_network:
    description:
      - The IPv6 network, required with O(enable_ipv6=true).
    type: str
  ipv6_subnet_len:
    description:
      - Prefix length of a host's IPv6 subnet, at most 126; by default 64, or that of
        O(ipv6_network) plus 2 where that is smaller than a /62.
    type: int
  ipv6_subnet_min:
    description:
      - First address of the first IPv6 subnet that may be leased.
    type: str
  ipv6_subnet_max:
    description:
      - First address of the last IPv6 subnet that may be leased.
    type: str
  backend:
    description:
      - How packets travel between hosts.
    type: dict
    default: {}
    suboptions:
      type:
        description:
          - V(vxlan) encapsulates in UDP in the kernel, and works wherever IP does.
          - V(host-gw) sets plain routes, and needs all hosts on one link.
          - V(udp) carries packets through a relay process.
          - V(alloc) only leases subnets.
        type: str
        choices: [vxlan, host-gw, udp, alloc]
        default: vxlan
      vni:
        description: VXLAN network identifier, 1 to 16777215; flannel's default is 1.
        type: int
      port:
        description: UDP port, by default 8472 for V(vxlan) and 8285 for V(udp).
        type: int
      mtu:
        description:
          - MTU of the underlay in bytes, from which the overlay's is computed.
          - By default that of each host's underlay interface.
        type: int
      gbp:
        description: Whether VXLAN packets carry the group based policy extension.
        type: bool
      learning:
        description: Whether the VXLAN device also learns where MAC addresses are.
        type: bool
      direct_routing:
        description: Whether hosts that share a link reach each other by plain routes instead.
        type: bool
  force:
    description:
      - Change or remove the config even if there are leases that do not fit the network afterwards.
      - Hosts keep leases inside the network that are of another length, or not between
        O(subnet_min) and O(subnet_max), until M(flatnet.overlay.flannel_subnet) is run with
        O(flatnet.overlay.flannel_subnet#module:move).
      - Hosts cannot keep leases outside the network, so O(move) has to be set too.
    type: bool
    default: false
  move:
    description:
      - With O(force), also make a change after which hosts have to move to other subnets, because
        theirs are outside the network.
    type: bool
    default: false
  state:
    description:
      - V(present) writes the config; V(absent) removes it, which is refused while there are leases.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flatnet.overlay.flannel_subnet
  - name: Flannel's configuration
    description: What each field means to flanneld.
    link: https://github.com/flannel-io/flannel/blob/master/Documentation/configuration.md
"""

EXAMPLES = r"""
- name: A network for up to 255 hosts, carried over VXLAN
  flatnet.overlay.flannel_network:
    etcd_endpoints: [http://192.0.2.2:2379]
    network: 10.5.0.0/16
    backend:
      type: vxlan
  run_once: true

- name: Plain routes, and the lowest subnets kept free for other uses
  flatnet.overlay.flannel_network:
    network: 10.5.0.0/16
    subnet_len: 26
    subnet_min: 10.5.16.0
    backend:
      type: host-gw
  run_once: true
"""

RETURN = r"""
config:
  description: The config with flannel's field names; empty with O(state=absent).
  type: dict
  returned: success
  sample:
    Network: 10.5.0.0/16
    SubnetLen: 24
    Backend: {Type: vxlan, VNI: 1, Port: 8472}
backend:
  description:
    - The backend, its defaults filled in, and what it needs of a host. See
      RV(flatnet.overlay.flannel_subnet#module:backend).
  type: dict
  returned: success
"""

import json

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends import known
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import option as named
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel import allocation
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    InvalidConfig,
    config_from_dict,
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.config import (
    delete,
    put,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import overlap
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    registry,
)

# Options and flannel's fields.
FIELDS = {
    "network": "Network",
    "subnet_len": "SubnetLen",
    "subnet_min": "SubnetMin",
    "subnet_max": "SubnetMax",
    "enable_ipv6": "EnableIPv6",
    "ipv6_network": "IPv6Network",
    "ipv6_subnet_len": "IPv6SubnetLen",
    "ipv6_subnet_min": "IPv6SubnetMin",
    "ipv6_subnet_max": "IPv6SubnetMax",
}
TRIES = 5


def arguments():
    spec = {name: {"type": "str"} for name in FIELDS}
    spec.update({name: {"type": "int"} for name in ("subnet_len", "ipv6_subnet_len")})
    spec["enable_ipv6"] = {"type": "bool", "default": False}
    spec["force"] = {"type": "bool", "default": False}
    spec["move"] = {"type": "bool", "default": False}
    backend = {
        name: {"type": "int" if field.is_number else "bool"}
        for name, field in known.fields().items()
    }
    backend["type"] = {"type": "str", "choices": list(known.BACKENDS), "default": known.DEFAULT}
    spec["backend"] = {"type": "dict", "default": {}, "apply_defaults": True, "options": backend}
    return spec


def wanted(option):
    """The config that the options describe; errors name the option."""
    backend = option["backend"]
    for name, types in known.offered().items():
        if backend[name] is not None and backend["type"] not in types:
            raise InvalidInput(
                "%s: the %s backend has no such field" % (named("backend." + name), backend["type"])
            )
    for name in FIELDS:
        if name.startswith("ipv6_") and option[name] is not None and not option["enable_ipv6"]:
            raise InvalidInput("%s: needs enable_ipv6: true as well" % name)
    if option["enable_ipv6"] and not option["ipv6_network"]:
        raise InvalidInput("ipv6_network: is required with enable_ipv6: true")
    fields = {FIELDS[name]: option[name] for name in FIELDS}
    names = {"type": "Type", **{name: field.name for name, field in known.fields().items()}}
    fields["Backend"] = {names[name]: value for name, value in backend.items()}
    given = {FIELDS[name]: (name, option[name]) for name in FIELDS}
    given.update(
        ("Backend." + names[name], ("backend." + name, value)) for name, value in backend.items()
    )
    for name, value in given.values():
        # flannel takes 0 for the default. Here, leave the option out for that.
        if value == 0 and value is not False:
            raise InvalidInput("%s: 0 is out of range; leave it out for the default" % named(name))
    try:
        return config_from_dict(fields)
    except InvalidConfig as error:
        wrong = [given[field] for field in error.fields]
        # Of two that do not go together one may be a default.
        set_by_user = [name for name, value in wrong if value is not None]
        at_fault = set_by_user or [name for name, value in wrong]
        raise InvalidInput("%s: %s" % (" and ".join(map(named, at_fault)), error)) from None


def fit(lease, config):
    """How well a lease fits a config. 2: the network leases its subnet. 1: its host may keep it. 0:
    it is outside the network."""
    pool = config.ipv4
    if allocation.is_member(pool, lease.subnet):
        return 2
    return int(allocation.is_within(pool, lease.subnet))


def check_leases(snapshot, current, config, force, move):
    """Raise InvalidInput if leases that fit the network now would fit the new config less well."""
    if config is None:
        stranded = () if force else snapshot.leases
        what = "the config cannot be removed, since hosts hold leases"
        way = "release them first, or set %s" % named("force")
    else:
        pool = config.ipv4
        worse = [
            (lease, fit(lease, config))
            for lease in snapshot.leases
            if fit(lease, config) < (fit(lease, current) if current else 2)
        ]
        stranded = [lease for lease, fits in worse if not fits]
        if stranded:
            what = "%s: %s would leave leases outside" % (named("network"), pool.network)
            way = "release them first, or set %s and %s, after which their hosts have to move" % (
                named("force"),
                named("move"),
            )
            stranded = [] if force and move else stranded
        else:
            stranded = [] if force else [lease for lease, dummy in worse]
            what = "%s, %s, %s: leases would not be /%d from %s to %s" % (
                *map(named, ("subnet_len", "subnet_min", "subnet_max")),
                pool.subnet_len,
                pool.subnet_min.network_address,
                pool.subnet_max.network_address,
            )
            way = "set %s; then their hosts keep these subnets, unless they are to move (%s)" % (
                named("force"),
                named("move"),
            )
    if stranded:
        names = ", ".join("%s of %s" % (lease.subnet, lease.owner) for lease in stranded[:5])
        raise InvalidInput(
            "%s (there are %d: %s%s); %s"
            % (what, len(stranded), names, ", ..." if len(stranded) > 5 else "", way)
        )


def show(config):
    return json.dumps(config.to_dict(), indent=2) + "\n" if config else ""


def converge(module, store, config):
    """One attempt; returns the result, or None if another writer was faster."""
    entry = store.config_entry()
    current, before = None, ""
    if entry:
        try:
            current = parse_config(entry.value)
            before = show(current)
        except InvalidConfig as error:
            module.warn("the config in etcd is not usable and is replaced: %s" % error)
            before = entry.value.decode("utf-8", "replace") + "\n"
    result = {
        "changed": entry is not None if config is None else current != config,
        "config": config.to_dict() if config else {},
        "backend": known.describe(config.backend) if config else {},
        "diff": {"before": before, "after": show(config)},
    }
    if not result["changed"]:
        return result
    snapshot = store.snapshot()
    if config:
        # With all leases: this host's own is one of them.
        seen = overlap.observe(module.params["etcd_endpoints"])
        overlap.check(config, seen, None, [lease.subnet for lease in snapshot.leases])
    check_leases(snapshot, current, config, module.params["force"], module.params["move"])
    if config and current and current.backend.type != config.backend.type and snapshot.leases:
        module.warn(
            "the backend changes from %s to %s under %d leases; hosts do not reach each "
            "other until the playbook has run for each of them"
            % (current.backend.type, config.backend.type, len(snapshot.leases))
        )
    if module.check_mode:
        return result
    done = put(store, config, entry) if config else delete(store, entry)
    return result if done else None


def main():
    module = create(
        {**arguments(), **ETCD_ARGUMENTS}, required_if=[("state", "present", ["network"])]
    )
    with reporting(module):
        config = wanted(module.params) if module.params["state"] == "present" else None
        with registry(module) as store:
            for dummy in range(TRIES):
                result = converge(module, store, config)
                if result:
                    module.exit_json(**result)
        module.fail_json(
            msg="%s/config: other writers were faster, %d times; look for another controller that "
            "runs now" % (store.prefix, TRIES)
        )


if __name__ == "__main__":
    main()
