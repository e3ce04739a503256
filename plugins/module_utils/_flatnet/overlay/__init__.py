# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From leases and this host to what the kernel, or the relay, should hold.

``location`` says who this host is, and ``underlay`` where it meets its peers. ``peers`` makes
leases into entries, ``table`` keeps them up to date event by event, ``devices`` has the overlay's
own devices. ``needs``, ``overlap`` and ``presence`` say what is in the way; ``applied`` after which
revision of etcd this host was brought.
"""
