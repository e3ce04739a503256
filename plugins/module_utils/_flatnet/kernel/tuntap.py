# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making TUN devices. The kernel makes them by an ioctl, and not over netlink.

Numbers are those of ``linux/if_tun.h``.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import struct

from .entries import Link

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI = 0x1, 0x100, 0x1000
_IFF_VNET_HDR, _IFF_TUN_EXCL = 0x4000, 0x8000


def make(link: Link) -> None:
    """Make a device that stays, down and without an address. Raises OSError, such as
    FileExistsError, and KeyError if its user does not exist."""
    option = link.option
    owner = pwd.getpwnam(option["user"]).pw_uid
    flags = _IFF_TUN | _IFF_TUN_EXCL
    for name, flag in (("multi_queue", _IFF_MULTI_QUEUE), ("vnet_hdr", _IFF_VNET_HDR)):
        flags |= flag if option[name] else 0
    flags |= 0 if option["pi"] else _IFF_NO_PI
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", link.name.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
