#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a host carry its packets to its peers over UDP."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tun_relay
version_added: 0.1.0
short_description: The relay of the udp backend, and its TUN device
description:
  - Sets up the udp backend of flannel on a host. It consists of a TUN device with the route of the
    overlay's network, and of C(flatnet-relay), which carries packets between that device and the
    peers. On the wire it is compatible with a flanneld that has this backend.
  - The relay runs as a user without rights. The TUN device belongs to this user, and stays while
    the relay does not run. The user is made if it is not there.
  - The relay is a part of this collection and comes to the host with the module. It is a package of
    its own below O(prefix), which only root can write. The relay is started anew when its device,
    its settings or its program have changed. It uses a changed table without a new start.
  - At the end of each run the relay has to answer.
  - If systemd runs the host, systemd runs the relay. On other hosts a small supervisor runs it, and
    starts it again when it ends.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
  - flatnet.overlay.etcd
  - flatnet.overlay.host
attributes:
  idempotent:
    support: partial
    details:
      - With O(state=restarted) the relay is started anew each time.
requirements:
  - Linux 4.18 or later on the host; with 5.0 and 6.2 it gets faster
options:
  name:
    description:
      - The TUN device's name.
    type: str
    default: flannel0
  network:
    description:
      - The overlay's network, all of which is routed to the device.
      - Required unless O(state=absent).
    type: str
  subnet:
    description:
      - This host's subnet. The relay takes in packets to it, and sends packets from it.
      - Required unless O(state=absent).
    type: str
  address:
    description:
      - The device's address, from which the relay also sends ICMP errors. By default the first one
        of O(subnet), as with flannel.
    type: str
  listen:
    description:
      - The address of this host in the underlay, to which peers send.
      - Required unless O(state=absent).
    type: str
  port:
    description:
      - UDP port, the same on all hosts.
    type: int
    default: 8285
  mtu:
    description:
      - The device's MTU in bytes. By default it is 28 bytes less than that of the interface that
        has O(listen).
    type: int
  vector:
    description:
      - Send many packets of a stream as one, in a format of our own, to peers whose lease says that
        they can read this format.
    type: bool
    default: true
  workers:
    description:
      - How many processes carry packets, up to 16. V(0) means half as many as the host has cores,
        at most 4.
    type: int
    default: 0
  user:
    description:
      - The user that the relay runs as. One that this module has made is removed with the relay.
    type: str
    default: flatnet-relay
  table:
    description:
      - All subnets of the network but this host's own, with the addresses of their hosts.
      - With neither this nor O(from_leases), M(flatnet.overlay.flannel_peers) and C(flatnet-sync)
        keep the table. If there is no table yet, the module makes an empty one.
    type: list
    elements: dict
    suboptions:
      subnet:
        description: A peer's subnet.
        type: str
        required: true
      address:
        description: The peer's address in the underlay.
        type: str
        required: true
      vector:
        description: The newest format of vectors that the peer reads; V(0) is none.
        type: int
        default: 0
  from_leases:
    description:
      - Make the table from the leases in etcd. This host has to hold one of them. The options that
        start with C(etcd_), and those that say which host this is, are only used for this.
    type: bool
    default: false
  allow_no_peers:
    description:
      - With O(from_leases), whether all peers may be removed from a table that has some.
    type: bool
    default: false
  table_file:
    description:
      - Where the table is kept.
    type: path
    default: /var/lib/flatnet/relay-table.json
  metrics_file:
    description:
      - Where to write metrics for node_exporter's textfile collector; by default nowhere.
      - The relay's user has to be allowed to write in its directory, which is made if it is not
        there.
    type: path
  prefix:
    description:
      - Where the program is, in C(lib/flatnet-relay), and its command, in C(sbin).
    type: path
    default: /usr/local
  python:
    description:
      - The interpreter to run it with. By default the one that runs the module.
    type: path
  unit:
    description:
      - The text of systemd's unit C(flatnet-relay.service), for a host that systemd runs. Its
        C(User) has to be O(user).
      - The role P(flatnet.overlay.backend#role) renders one.
    type: str
    default: ''
  state:
    description:
      - V(restarted) is V(present), and starts the relay anew whether or not anything has changed.
      - V(absent) removes the relay, its device, files and user. Of the other options it looks at
        O(name), O(user), O(table_file) and O(prefix). If C(flatnet-sync) runs, remove it first,
        since it would bring the device back.
    type: str
    choices: [present, absent, restarted]
    default: present
seealso:
  - module: flatnet.overlay.flannel_peers
  - module: flatnet.overlay.flatnet_sync
"""

EXAMPLES = r"""
- name: A relay whose table somebody else keeps
  flatnet.overlay.tun_relay:
    network: 10.5.0.0/16
    subnet: 10.5.72.0/24
    listen: 192.0.2.11
    unit: "{{ lookup('ansible.builtin.template', 'flatnet-relay.service.j2') }}"

- name: Two hosts without etcd
  flatnet.overlay.tun_relay:
    network: 10.5.0.0/16
    subnet: 10.5.72.0/24
    listen: 192.0.2.11
    table:
      - subnet: 10.5.94.0/24
        address: 192.0.2.12
        vector: 1
    unit: "{{ lookup('ansible.builtin.template', 'flatnet-relay.service.j2') }}"

- name: Remove the relay
  flatnet.overlay.tun_relay:
    state: absent
"""

RETURN = r"""
version:
  description: The collection's version and what identifies the sources; null if removed.
  type: str
  returned: success
  sample: 0.1.0-3fb0c8d2a1e4
command:
  description: Path of the command.
  type: str
  returned: success
restarted:
  description: Whether the relay was, or in check mode would be, started.
  type: bool
  returned: success
relay:
  description: What the relay says about itself, as C(flatnet-relay status --json), without peers.
  type: dict
  returned: success, and neither in check mode nor with O(state=absent)
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import (
    current_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import package
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import diff
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.devices import (
    DeviceKernel,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import relay_setup
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
    taking_turns,
    warn_each,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    HOST_ARGUMENTS,
    HOST_EXCLUSIVE,
    observe,
    registry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.rules import rules

ARGUMENTS = {
    "name": {"type": "str", "default": "flannel0"},
    "network": {"type": "str"},
    "subnet": {"type": "str"},
    "address": {"type": "str"},
    "listen": {"type": "str"},
    "port": {"type": "int", "default": 8285},
    "mtu": {"type": "int"},
    "vector": {"type": "bool", "default": True},
    "workers": {"type": "int", "default": 0},
    "user": {"type": "str", "default": "flatnet-relay"},
    "table": {
        "type": "list",
        "elements": "dict",
        "options": {
            "subnet": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "vector": {"type": "int", "default": 0},
        },
    },
    "from_leases": {"type": "bool", "default": False},
    "allow_no_peers": {"type": "bool", "default": False},
    "table_file": {"type": "path", "default": "/var/lib/flatnet/relay-table.json"},
    "metrics_file": {"type": "path"},
    "prefix": {"type": "path", "default": "/usr/local"},
    "python": {"type": "path"},
    "unit": {"type": "str", "default": ""},
    "state": {
        "type": "str",
        "choices": ["present", "absent", "restarted"],
        "default": "present",
    },
    **HOST_ARGUMENTS,
}


def read(module, kernel):
    """What etcd has for the relay's table."""
    with registry(module) as store:
        listing = store.listing()
    config, snapshot = listing.config, listing.snapshot
    location = observe(module, kernel, config)
    own = current_lease(snapshot.leases, location.host)
    usable = ()
    if own:
        chosen = rules(module, kernel, listing, own, location).select(snapshot.leases)
        usable = chosen.usable
        warn_each(module, (*snapshot.garbage, *chosen.skipped), "leases are not used")
    return relay_setup.LeasesRead(
        config, location.host, own, usable, snapshot.unreadable, snapshot.revision
    )


def main():
    module = create(
        {**ARGUMENTS, **ETCD_ARGUMENTS},
        state=False,
        mutually_exclusive=HOST_EXCLUSIVE,
    )
    gone = module.params["state"] == "absent"
    with reporting(module), DeviceKernel() as kernel:
        result = {}
        with taking_turns(module):
            relay = relay_setup.observe(module.params, kernel, lambda: read(module, kernel))
            if not module.check_mode:
                relay.apply()
                result = relay.outcome()
        module.exit_json(
            changed=bool(relay.steps),
            version=None if gone else package.version("relay"),
            command=relay.command,
            restarted=relay.restarts,
            diff=diff(relay.steps),
            **result,
        )


if __name__ == "__main__":
    main()
