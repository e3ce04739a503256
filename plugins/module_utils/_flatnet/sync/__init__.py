# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process ``flatnet-sync``, which follows etcd and keeps one host's overlay right.

``command`` is its command line, ``service`` its loop, ``agent`` what it does at each event and at
each look. ``settings`` is its file of settings, which ``install/`` writes.
"""
