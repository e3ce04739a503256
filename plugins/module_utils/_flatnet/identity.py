# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a host is: the identity recorded in its lease, and the MAC addresses made from it."""

from __future__ import annotations

import hashlib
import hmac
import re

from .errors import InvalidInput, option
from .fields import show

# Namespace of the keyed hashes below, so that /etc/machine-id itself is never published: see
# machine-id(5), which asks for exactly this.
_APPLICATION = b"flatnet.overlay"


def host_id(machine_id: str) -> str:
    """The identity recorded in leases: 32 hex digits derived from ``/etc/machine-id``."""
    text = machine_id.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{32}", text) or not int(text, 16):
        raise InvalidInput(
            "machine id %s is not 32 hex digits; run systemd-machine-id-setup, or set %s"
            % (show(machine_id.strip()), option("host_id"))
        )
    return hmac.new(bytes.fromhex(text), _APPLICATION, hashlib.sha256).hexdigest()[:32]


def stable_mac(identity: str, name: str) -> str:
    """A locally administered unicast MAC, always the same for the same identity and name.

    ``name`` says which device: ``vni 1``, ``bridge cni0``.
    """
    digest = bytearray(hashlib.sha256(("%s %s" % (identity, name)).encode()).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return ":".join("%02x" % byte for byte in digest)


def vtep_mac(host_id: str, vni: int) -> str:
    """The VTEP MAC that a host has by default: the same after every reboot and re-creation."""
    return stable_mac(host_id, "vni %d" % vni)
