# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that say which host a module runs on, and which underlay the host has."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  interface:
    description:
      - The underlay's interface, by its name (V(eth1)), by an address it has (V(192.0.2.11)), or by
        a prefix that its address is in (V(192.0.2.0/24)).
      - With none of O(interface), O(interface_regex) and O(can_reach), it is the one that the
        default route leaves by; without a default route, the only one with an IPv4 address.
        Devices of the overlay itself do not count.
    type: str
  interface_regex:
    description:
      - The underlay's interface, by a regular expression that must match exactly one name whole.
    type: str
  can_reach:
    description:
      - The underlay's interface, by an IPv4 address that is routed through it, such as an etcd
        endpoint's.
    type: str
  public_ip:
    description:
      - The IPv4 address at which peers reach this host.
      - By default the first address of the underlay's interface.
    type: str
  host_id:
    description:
      - What identifies this machine, whatever its addresses are. It must never change.
      - By default a hash made from C(/etc/machine-id), which itself is not published.
    type: str
  hostname:
    description:
      - The host's name as recorded in its lease, for people to read.
      - By default the kernel's host name.
    type: str
"""
