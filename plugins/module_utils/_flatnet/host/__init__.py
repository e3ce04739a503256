# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What any program needs of the host that it runs on: files that are replaced whole, locks, users
of the system, its machine id, other processes, the journal and systemd.

Nothing here knows of networks or of flannel.
"""
