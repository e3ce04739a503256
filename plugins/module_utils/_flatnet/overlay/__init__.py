# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From leases and this host to what the kernel, or the relay, should hold.

``location`` says who this host is, and ``underlay`` where it meets its peers. ``rules`` says which
leases it uses, ``peers`` makes these into entries. ``peer_table`` keeps the entries up to date
event by event. ``devices`` has the overlay's own devices. ``needs``, ``overlap`` and ``presence``
say what is in the way. ``applied`` has the revision of etcd after which this host was last brought
into line.
"""
