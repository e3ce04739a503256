# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The leases in etcd: read whole, and written one at a time.

``registry`` reads the network's key space, ``watched`` also follows it, ``snapshot`` has the values
that were read. ``acquire`` makes a host hold exactly one lease, ``release`` removes it; what both
write are ``transactions``. ``config`` writes the network's config.
``guards`` explains how two of them at the same time never give away one subnet, or two to one host.
"""
