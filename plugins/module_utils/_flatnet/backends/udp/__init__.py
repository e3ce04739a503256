# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The udp backend: all of the network is routed to a TUN device, and a process finds the peer.

``backend`` answers what every backend answers. The kernel holds nothing for a peer: ``relay_table``
makes the relay's table in place of entries, ``keeper`` keeps the relay's files for flatnet-sync.
The process itself is in ``relay/``.
"""
