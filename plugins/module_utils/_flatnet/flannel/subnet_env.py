# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``/run/flannel/subnet.env``: the file that tells a container runtime the host's subnet.

Pure.
"""

from __future__ import annotations

from .config import NetworkConfig
from .lease import Lease, gateway


def render(config: NetworkConfig, lease: Lease, mtu: int, ipmasq: bool) -> str:
    """The file's content, byte for byte as flannel's ``WriteSubnetFile`` writes it."""
    lines = ["FLANNEL_NETWORK=%s" % config.network, "FLANNEL_SUBNET=%s" % gateway(lease.subnet)]
    if config.ipv6 and lease.subnet6:
        lines.append("FLANNEL_IPV6_NETWORK=%s" % config.ipv6.network)
        lines.append("FLANNEL_IPV6_SUBNET=%s" % gateway(lease.subnet6))
    lines.append("FLANNEL_MTU=%d" % mtu)
    lines.append("FLANNEL_IPMASQ=%s" % ("true" if ipmasq else "false"))
    return "\n".join(lines) + "\n"
