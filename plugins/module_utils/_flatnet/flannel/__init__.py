# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flannel's contract, and which subnet is whose.

``config`` is the network's config, ``lease`` keys and values under ``subnets``, ``subnet_env`` the
file of that name; what a backend says in them is left to ``backends/``. ``host`` finds a host's own
lease, ``allocation`` says which subnets are free, ``assignment`` which lease a host should hold,
``clashes`` which leases get in each other's way. All of it is pure.
"""
