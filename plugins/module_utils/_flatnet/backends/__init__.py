# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs from backend to backend: one backend is one file, or one folder.

``protocol`` has the questions that each backend answers. ``known`` has the backends by name, and
what follows from all of them. Everybody else asks the backend, and compares no names.

The folder lies below ``flannel/``, because that asks the backend when it reads a config or a lease.
So backends do not know configs and leases; they get a host and its peers as plain values.
"""
