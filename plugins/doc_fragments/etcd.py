# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options by which a module reaches etcd; see task/registry.py of the core."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  etcd_endpoints:
    description:
      - URLs of the members of the etcd cluster.
      - They are tried one after the other, in random order, until one answers.
    type: list
    elements: str
    default:
      - http://127.0.0.1:2379
  etcd_prefix:
    description:
      - The key below which the network's config and leases are, as for C(flanneld --etcd-prefix).
    type: str
    default: /coreos.com/network
  etcd_ca_file:
    description:
      - File, on the host that runs the module, with the certificates that an C(https) endpoint's
        certificate must be signed by, in PEM format.
      - By default those that the host's system trusts.
    type: path
  etcd_cert_file:
    description:
      - File, on the host that runs the module, with the client certificate, in PEM format.
      - Goes with O(etcd_key_file).
    type: path
  etcd_key_file:
    description:
      - File, on the host that runs the module, with the client certificate's private key, in PEM
        format.
      - Goes with O(etcd_cert_file).
    type: path
  etcd_username:
    description:
      - User to authenticate as, where etcd's authentication is enabled.
      - Goes with O(etcd_password).
    type: str
  etcd_password:
    description:
      - Password of O(etcd_username).
    type: str
  etcd_timeout:
    description:
      - Seconds that one request to one endpoint may take, its name's resolution included.
      - Over all endpoints it takes three times that at most.
      - C(flatnet-sync) takes at most 60.
    type: float
    default: 5.0
  option_names:
    description:
      - The names that errors use for options. The roles give the names of their variables here, by
        option.
    type: dict
    default: {}
attributes:
  action_group:
    description: Is part of an action group, so that C(module_defaults) can set its shared options.
    support: full
    membership:
      - flatnet.overlay.etcd
"""
