# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel of a network namespace holds, and netlink.

``entries`` has the values (devices, addresses, neighbours, FDB entries, routes), ``plan`` and
``links`` tell what has to change, ``reader`` observes, ``kernel`` also applies, and ``devices`` can
change devices as well. ``bridging`` observes who is on bridges. ``monitor`` hears of changes that
others made. The rest is private to these.
"""
