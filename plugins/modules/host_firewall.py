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
  - Makes a firewall that the host runs let the overlay's packets through. The rules look at the
    interface that packets come in by, since anybody can write any source into a packet.
  - From the underlay, the host takes packets to the backend's UDP port.
  - It forwards what pods on the bridge send, to anywhere, and the answers to that. It forwards to
    pods what comes out of the backend's device. If peers send without a tunnel (O(link)), it also
    forwards to pods what comes in by the underlay's interface, from the overlay's network or from
    the link. Then everybody on the link is trusted to be a peer.
  - Pods and peers can ping the host's addresses in the overlay. They reach nothing else of the
    host, and nothing outside of the overlay reaches pods, until a rule of the host's own says so.
  - Two firewalls are known, C(firewalld) from 0.9 on, and the table C(inet filter) of nftables
    where one of its chains drops or rejects packets. On a host with neither it changes nothing.
  - Changes last over a boot. For nftables the rules are also kept in
    C(/etc/nftables.d/flatnet.nft), and the C(nftables.conf) that defines the table gets a line that
    includes this file. Before anything is written, nft checks what C(nftables.conf) will be.
  - With C(firewalld) the bridge is put into the zone C(flatnet), unless it is in another already,
    and the backend's device into C(flatnet-tunnel); the policies C(flatnet-out), C(flatnet-in)
    and C(flatnet-link) forward between them. A service of the host for pods is opened in the zone
    C(flatnet). To make these takes one reload. If a reload would lose settings that are not
    permanent, the module fails, names them, and changes nothing.
  - A source that earlier versions added to the zone C(trusted), the overlay's network, is removed.
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
  bridge:
    description: The bridge that pods join.
    type: str
    default: cni0
  device:
    description: The backend's device; by default it has none.
    type: str
    default: ''
  interface:
    description:
      - The underlay's interface. C(firewalld) opens O(port) in the zone that it is in.
      - By default that is the default zone, and nftables does not look at the interface. With V(lo)
        and dummy interfaces, by which no packet comes in, nftables does not look at it either.
      - With O(state=absent) and without this option the port is closed in the default zone and in
        each other one that has interfaces.
    type: str
    default: ''
  link:
    description:
      - The underlay's address with its length, or network, where peers send packets of pods
        without a tunnel, as with V(host-gw) and with direct routing.
      - By default they do not.
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
    device: flannel.1
    interface: eth0

- name: Let pods' packets through that come without a tunnel
  flatnet.overlay.host_firewall:
    network: 10.5.0.0/16
    interface: eth0
    link: 192.0.2.11/24
"""

RETURN = r"""
firewalls:
  description: The firewalls that the host runs and that were seen to.
  type: list
  elements: str
  returned: success
  sample: [nftables]
"""

import ipaddress

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet import checks
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import (
    firewalld,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import (
    nftables as firewall,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.host_files import (
    read,
    remove,
    save,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
    taking_turns,
)

ARGUMENTS = {
    "network": {"type": "str", "required": True},
    "port": {"type": "int"},
    "bridge": {"type": "str", "default": "cni0"},
    "device": {"type": "str", "default": ""},
    "interface": {"type": "str", "default": ""},
    "link": {"type": "str", "default": ""},
}
NFT_CONF = ("/etc/nftables.conf", "/etc/sysconfig/nftables.conf")
NFT_FILE = "/etc/nftables.d/flatnet.nft"
UNKNOWN_OPTION = 2  # firewall-cmd's exit code
IFF_LOOPBACK = 0x8
IFF_POINTOPOINT = 0x10
IFF_NOARP = 0x80


class FirewallFailed(FlatnetError):
    """The firewall refused."""


def tell(module, command, text=None):
    # At boot nft runs there, which is where a file that it includes may be looked for.
    return told(command, *module.run_command(command, data=text, cwd="/"))


def told(command, code, out, err):
    if code != 0:
        raise FirewallFailed("%s failed (%d): %s" % (" ".join(command), code, (err or out).strip()))
    return out


def needs_of(option):
    """What has to pass, from the options, which this checks."""
    interface = option["interface"] and checks.device("interface", option["interface"])
    link = option["link"]
    if link:
        checks.address("link", link.partition("/")[0], 4)
        checks.interface_address("link", link)
        link = str(ipaddress.ip_interface(link).network)
    return firewall.Needs(
        checks.network("network", option["network"]),
        checks.number("port", option["port"], 1, 65535),
        checks.device("bridge", option["bridge"]),
        option["device"] and checks.device("device", option["device"]),
        interface,
        link,
    )


def receives(interface):
    """Whether packets come in by the interface. They do not by lo or a dummy interface: packets to
    an address there come in by any other one."""
    try:
        with open("/sys/class/net/%s/flags" % interface, encoding="ascii") as file:
            flags = int(file.read(), 16)
    except OSError:
        return True
    dummy = flags & IFF_NOARP and not flags & IFF_POINTOPOINT
    return not flags & IFF_LOOPBACK and not dummy


# --- nftables -----------------------------------------------------------------------------------


def nftables(module, needs, present):
    """Changes as (name, before, after); None if there is no such firewall.

    The files are written before the running rules are changed. So if nft refuses something, nothing
    has changed. The included file is there whenever nftables.conf includes it.
    """
    nft = module.get_bin_path("nft")
    code, listing = (
        module.run_command([nft, "-j", "list", "table", "inet", "filter"])[:2] if nft else (1, "")
    )
    running = code == 0
    have, filtering = firewall.nft_rules(listing) if running else ([], {})
    if not receives(needs.interface):
        needs = needs._replace(interface="")
    wanted = firewall.nft_wanted(needs, filtering) if present else []
    confs = {path: read(path) for path in NFT_CONF}
    kept = read(NFT_FILE)
    if (
        not wanted
        and not have
        and kept is None
        and NFT_FILE not in "".join(filter(None, confs.values()))
    ):
        return None
    rules = "".join("insert rule %s\n" % (rule,) for rule in wanted)
    if present and not running:
        # Nobody knows which chains filter, so our file stays. If it is missing, nft does not load
        # the rest, because of the line that includes it.
        rules = kept or ""
    steps = [each for each in file_steps(module, nft, confs, kept, rules) if each[1] != each[2]]
    if not module.check_mode:
        for path, dummy, after in steps:
            remove(path) if after is None else save(module, path, after)
    changes = [(path, before or "", after or "") for path, before, after in steps]
    script = firewall.nft_script(wanted, have)
    if script:
        lines = ["".join("%s\n" % (rule,) for rule in sorted(rules)) for rules in (have, wanted)]
        changes.append(("nft list table inet filter", *lines))
        if not module.check_mode:
            tell(module, [nft, "-f", "-"], script)
    return changes


def file_steps(module, nft, confs, kept, rules):
    """Each file's content before and after, in an order in which nft can load nftables.conf after
    each step; None where there is no file."""
    steps, included = [], False
    for path, before in confs.items():
        if before is None:
            continue
        wanted = bool(rules) and "inet filter" in before
        after = firewall.nft_include(before, NFT_FILE, wanted)
        included = included or wanted
        steps.append((path, before, after))
        if before != after or (wanted and rules != kept):
            check(module, nft, path, firewall.nft_inlined(after, NFT_FILE, rules), wanted)
    if rules and not included:
        module.warn(
            "none of %s defines the table inet filter; include %s in the file that does"
            % (", ".join(NFT_CONF), NFT_FILE)
        )
    own = [(NFT_FILE, kept, rules or None)]
    return own + steps if rules else steps + own


def check(module, nft, path, text, wanted):
    """Ask nft whether it could load this; raises FirewallFailed."""
    if not nft:
        return
    try:
        tell(module, [nft, "-c", "-f", "-"], text)
    except FirewallFailed as error:
        if wanted:
            raise FirewallFailed(
                "%s: nft would not load it with the overlay's rules: %s; nothing was changed; "
                "mend the file first" % (path, error)
            ) from None
        # Our line is not in it, so this is not our fault.
        module.warn("%s is not valid: %s" % (path, error))


# --- firewalld ----------------------------------------------------------------------------------


def firewall_cmd(module, needs, present):
    """Changes as (name, before, after); None if there is no such firewall."""
    command = module.get_bin_path("firewall-cmd")
    if not command or module.run_command([command, "--state"])[0] != 0:
        return None

    def ask(*words):
        return tell(module, [command, *words])

    def look(*where):
        zones = firewalld.listed(ask(*where, "--list-all-zones"))
        return firewalld.Configuration(zones, firewalld.listed(policies(where)))

    def policies(where):
        words = [command, *where, "--list-all-policies"]
        code, out, err = module.run_command(words)
        if code != UNKNOWN_OPTION:
            return told(words, code, out, err)
        if present:
            raise FirewallFailed(
                "this host's firewalld is older than 0.9 and cannot forward from zone to zone; "
                "run a newer one, or another firewall"
            )
        return ""  # so there is nothing of it to take back

    running, permanent = look(), look("--permanent")
    default = ask("--get-default-zone").strip()
    wish = firewalld.wanted(needs, running, permanent, default, present)
    lasting = firewalld.permanent_changes(wish, permanent, present)
    now = firewalld.running_changes(wish, running, present)
    if now is None:
        refuse_to_lose(ask, wish, running, permanent)
    commands = [["--permanent", *words] for words in lasting]
    commands += [["--reload"]] if now is None else now
    if not module.check_mode:
        for words in commands:
            ask(*words)
        if now is None:
            after = look()
            for words in firewalld.rebound(running, after):
                ask(*words)
    return [("firewalld", "", line) for line in firewalld.lines(commands)]


def refuse_to_lose(ask, wish, running, permanent):
    """Raise FirewallFailed if a reload would lose running settings that are not permanent."""
    lost = firewalld.lost(wish, running, permanent)
    known = ask("--permanent", "--direct", "--get-all-rules").splitlines()
    rules = ask("--direct", "--get-all-rules").splitlines()
    lost += ["direct rule %s" % rule for rule in rules if rule not in known]
    for name in ask("--get-ipsets").split():
        kept = ask("--permanent", "--ipset=" + name, "--get-entries").split()
        entries = ask("--ipset=" + name, "--get-entries").split()
        lost += ["ipset %s, entry %s" % (name, each) for each in entries if each not in kept]
    if lost:
        raise FirewallFailed(
            "firewalld has to be reloaded once for the overlay's zones; a reload would lose "
            "settings that are not permanent: %s%s; keep them with firewall-cmd "
            "--runtime-to-permanent, or give them up with firewall-cmd --reload; then run this "
            "again"
            % ("; ".join(lost[:5]), "; and %d more" % (len(lost) - 5) if len(lost) > 5 else "")
        )


def main():
    module = create(ARGUMENTS)
    with reporting(module):
        needs = needs_of(module.params)
        found, diffs = [], []
        for name, converge in (("firewalld", firewall_cmd), ("nftables", nftables)):
            with taking_turns(module):
                changes = converge(module, needs, module.params["state"] == "present")
            if changes is None:
                continue
            found.append(name)
            for header, before, after in changes:
                headers = {"before_header": header, "after_header": header}
                diffs.append({"before": before, "after": after, **headers})
        module.exit_json(changed=bool(diffs), firewalls=found, diff=diffs)


if __name__ == "__main__":
    main()
