#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lets the overlay's packets through the host's firewall."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
version_added: 0.1.0
short_description: The host's firewall lets the overlay through
description:
  - Makes a firewall that the host runs let through what the overlay consists of, which is packets
    to the backend's UDP port, packets forwarded from and to the overlay's network, and pings of the
    host's gateway address.
  - Two firewalls are known, C(firewalld), and the table C(inet filter) of nftables where one of its
    chains drops or rejects packets. On a host with neither it changes nothing.
  - What it changes lasts. For C(firewalld) the permanent configuration is changed too; for nftables
    the rules are also kept in C(/etc/nftables.d/flatnet.nft), which the C(nftables.conf) that
    defines the table is made to include.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
options:
  network:
    description: The overlay's network.
    type: str
    required: true
  port:
    description:
      - The backend's UDP port, if it has one.
      - C(firewalld) does not tell who opened a port, so one that was opened for an earlier backend
        stays open there.
    type: int
  interface:
    description:
      - The underlay's interface. C(firewalld) opens O(port) in the zone that it is in.
      - By default that of the default zone.
    type: str
    default: ''
  state:
    description: V(absent) takes back what V(present) adds.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Let VXLAN packets in, and pods' packets through
  flatnet.overlay.host_firewall:
    network: 10.5.0.0/16
    port: 8472
"""

RETURN = r"""
firewalls:
  description: The firewalls that the host runs and that were seen to.
  type: list
  elements: str
  returned: success
  sample: [nftables]
"""

import os

from ansible_collections.flatnet.overlay.plugins.module_utils import firewall, options
from ansible_collections.flatnet.overlay.plugins.module_utils.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils.module import (
    create,
    reporting,
)

ARGUMENTS = {
    "network": {"type": "str", "required": True},
    "port": {"type": "int"},
    "interface": {"type": "str", "default": ""},
}
NFT_CONF = ("/etc/nftables.conf", "/etc/sysconfig/nftables.conf")
NFT_FILE = "/etc/nftables.d/flatnet.nft"


class FirewallFailed(FlatnetError):
    """The firewall refused."""


def tell(module, command, text=None):
    code, out, err = module.run_command(command, data=text)
    if code != 0:
        raise FirewallFailed("%s failed (%d): %s" % (" ".join(command), code, (err or out).strip()))
    return out


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise FirewallFailed("%s cannot be read: %s" % (path, error)) from None


def nftables(module, needs, present):
    """Changes as (name, before, after); None if there is no such firewall."""
    nft = module.get_bin_path("nft")
    code, listing = (
        module.run_command([nft, "-j", "list", "table", "inet", "filter"])[:2] if nft else (1, "")
    )
    if code != 0:
        return None
    have, filtering = firewall.nft_rules(listing)
    wanted = firewall.nft_wanted(needs, filtering) if present else []
    if not wanted and not have and not os.path.exists(NFT_FILE):
        return None
    changes = []
    script = firewall.nft_script(wanted, have)
    if script:
        lines = ["".join("%s\n" % (rule,) for rule in sorted(rules)) for rules in (have, wanted)]
        changes.append(("nft list table inet filter", *lines))
        if not module.check_mode:
            tell(module, [nft, "-f", "-"], script)
    files = {NFT_FILE: "".join("insert rule %s\n" % (rule,) for rule in wanted)}
    conf = next((path for path in NFT_CONF if "inet filter" in read(path)), None)
    if conf:
        files[conf] = firewall.nft_include(read(conf), NFT_FILE, bool(wanted))
    elif wanted:
        module.warn(
            "nothing among %s defines the table inet filter: whoever loads it must include %s"
            % (", ".join(NFT_CONF), NFT_FILE)
        )
    for path, after in files.items():
        before = read(path)
        if before != after:
            changes.append((path, before, after))
            if not module.check_mode:
                save(module, path, after)
    return changes


def save(module, path, text):
    if not text:
        os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = os.path.join(module.tmpdir, os.path.basename(path))
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    # What it replaces is the host's own file: its owner and permissions stay.
    module.atomic_move(draft, path)


def firewalld(module, needs, present):
    """Changes as (name, before, after); None if there is no such firewall."""
    command = module.get_bin_path("firewall-cmd")
    if not command or module.run_command([command, "--state"])[0] != 0:
        return None
    changes = []
    default = tell(module, [command, "--get-default-zone"]).strip()
    running = firewall.zones(tell(module, [command, "--list-all-zones"]))
    zone = firewall.zone_of(module.params["interface"], running, default)
    for where in ([], ["--permanent"]):
        known = running
        if where:
            known = firewall.zones(tell(module, [command, *where, "--list-all-zones"]))
        for name, option in firewall.firewalld_changes(needs, zone, known, present):
            words = [*where, "--zone=" + name, option]
            line = "firewall-cmd %s\n" % " ".join(words)
            changes.append(("firewalld", "", line))
            if not module.check_mode:
                tell(module, [command, *words])
    return changes


def main():
    module = create(ARGUMENTS)
    option = module.params
    with reporting(module):
        network = options.network("network", option["network"])
        needs = firewall.Needs(options.number("port", option["port"], 1, 65535), network)
        found, diffs = [], []
        for name, converge in (("firewalld", firewalld), ("nftables", nftables)):
            changes = converge(module, needs, option["state"] == "present")
            if changes is None:
                continue
            found.append(name)
            for header, before, after in changes:
                headers = {"before_header": header, "after_header": header}
                diffs.append({"before": before, "after": after, **headers})
        module.exit_json(changed=bool(diffs), firewalls=found, diff=diffs)


if __name__ == "__main__":
    main()
