# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process ``flatnet-relay``, which carries packets of the udp backend, and its command line.

Others use ``config`` (its settings and its table) and ``control`` (asking one that runs).
docs/relay.md tells how it works.
"""
