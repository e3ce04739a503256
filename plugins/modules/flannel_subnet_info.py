#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the network's config and all leases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flannel_subnet_info
version_added: 0.1.0
short_description: Reads the network's config and all leases
description:
  - Returns what etcd holds of the network, and warns of keys that are not valid leases.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
  - flatnet.overlay.etcd
seealso:
  - module: flatnet.overlay.flannel_subnet
"""

EXAMPLES = r"""
- name: Read all leases
  flatnet.overlay.flannel_subnet_info:
    etcd_endpoints: [http://192.0.2.2:2379]
  register: network
  run_once: true

- name: Say which host has which subnet
  ansible.builtin.debug:
    msg: "{{ network.leases | items2dict(key_name='public_ip', value_name='subnet') }}"
  run_once: true
"""

RETURN = r"""
config:
  description: The config with flannel's field names.
  type: dict
  returned: success
backend:
  description:
    - The network's backend, its defaults filled in, and what it needs of a host. See
      RV(flatnet.overlay.flannel_subnet#module:backend).
  type: dict
  returned: success
leases:
  description:
    - All valid leases, in the order of their keys.
    - Each as RV(flatnet.overlay.flannel_subnet#module:lease), and C(create_revision), etcd's
      revision at which its key was made.
  type: list
  elements: dict
  returned: success
unused:
  description: Keys below C(subnets) that are not valid leases, with the reason.
  type: list
  elements: str
  returned: success
config_revision:
  description: etcd's revision at which the config was last changed.
  type: int
  returned: success
revision:
  description: etcd's revision at which the leases were read.
  type: int
  returned: success
"""

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends import known
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
    warn_each,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.registry import (
    ETCD_ARGUMENTS,
    lease_result,
    registry,
)


def main():
    module = create(ETCD_ARGUMENTS, state=False)
    with reporting(module), registry(module) as store:
        config, snapshot, revision = store.listing()
        module.exit_json(
            changed=False,
            config=config.to_dict(),
            backend=known.describe(config.backend),
            leases=[
                {**lease_result(lease, store.prefix), "create_revision": lease.create_revision}
                for lease in snapshot.leases
            ],
            unused=warn_each(module, snapshot.garbage, "keys are not used"),
            config_revision=revision,
            revision=snapshot.revision,
        )


if __name__ == "__main__":
    main()
