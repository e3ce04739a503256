# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd v3 over its JSON gateway, with the standard library alone.

Others use ``client``, or ``watching``, a client that can also watch. The rest is private to these.
"""
