#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pings every peer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_ping
version_added: 0.1.0
short_description: Ping every peer over the overlay
description:
  - Pings the hosts of all other leases from this host, over the overlay and all at once. Then pings
    those that answer again, with packets of the overlay's full MTU that must not be fragmented.
  - Packets leave from this host's gateway address, so an answer shows that both directions work. On
    a host that this collection provisioned, the gateway address has to answer. On a host that runs
    a C(flanneld), and may have no bridge yet, the address of its VTEP has to answer.
  - Returns only what does not answer, so that a large fleet's result stays small.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
  - flatnet.overlay.etcd
  - flatnet.overlay.host
requirements:
  - C(fping), 5.0 or later, on the host.
seealso:
  - module: flatnet.overlay.flannel_peers
"""

EXAMPLES = r"""
- name: Ping every peer
  flatnet.overlay.overlay_ping:
    etcd_endpoints: [http://192.0.2.2:2379]
  register: pinged
  failed_when: pinged.lost | length > 0
"""

RETURN = r"""
lost:
  description: What does not answer.
  type: list
  elements: dict
  returned: success
  contains:
    hostname: {description: The peer's name as recorded in its lease., type: str, sample: host2}
    public_ip: {description: The peer's address on the underlay., type: str, sample: 192.0.2.12}
    address: {description: The address that was pinged., type: str, sample: 10.5.94.1}
    size:
      description: Bytes of the packet that got no answer; null for a ping of the usual size.
      type: int
    reason: {description: 'What a router answered, or V(no answer).', type: str, sample: no answer}
pinged:
  description: How many peers were pinged.
  type: int
  returned: success
backend:
  description: The network's backend.
  type: str
  returned: success
carries:
  description:
    - Whether it carries packets from host to host. If not, as with V(alloc), there are no peers to
      ping.
  type: bool
  returned: success
mtu:
  description: Bytes of the largest packet sent.
  type: int
  returned: success
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import (
    current_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import gateway
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.reader import (
    KernelReader,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.ping import (
    PingFailed,
    ping,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    HOST_ARGUMENTS,
    HOST_EXCLUSIVE,
    observe,
    registry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.rules import rules


def target(backend, lease):
    """The address of a peer that is sure to be there; a flanneld's device has the subnet's first,
    where there is such a device."""
    bridge = lease.host_id or not backend.device
    return (gateway(lease.subnet) if bridge else lease.subnet).partition("/")[0]


def main():
    module = create(
        {**HOST_ARGUMENTS, **ETCD_ARGUMENTS}, state=False, mutually_exclusive=HOST_EXCLUSIVE
    )
    fping = module.get_bin_path("fping")
    with reporting(module):
        if fping is None:
            raise PingFailed("fping is not installed on this host; install the package fping")
        with registry(module) as store, KernelReader() as kernel:
            listing = store.listing()
            config, leases = listing.config, listing.snapshot.leases
            location = observe(module, kernel, config)
            own = current_lease(leases, location.host)
            if own is None:
                raise PingFailed(
                    "%s holds no lease, so it is not part of the overlay" % (location.host,)
                )
            judge = rules(module, kernel, listing, own, location)
        mtu = config.backend.overlay_mtu(location.underlay.mtu)
        chosen = judge.select(leases).usable
        by_address = {target(config.backend, lease): lease for lease in chosen}
        lost = ping(
            lambda command, text: module.run_command(command, data=text),
            fping,
            gateway(own.subnet).partition("/")[0],
            by_address,
            mtu,
        )
        module.exit_json(
            changed=False,
            lost=[
                {
                    "hostname": by_address[each.address].hostname,
                    "public_ip": by_address[each.address].public_ip,
                    **each._asdict(),
                }
                for each in lost
            ],
            pinged=len(by_address),
            backend=config.backend.type,
            carries=config.backend.carries,
            mtu=mtu,
        )


if __name__ == "__main__":
    main()
