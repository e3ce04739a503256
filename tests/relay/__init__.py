# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay's tests need: hosts with a relay, an independent peer, packets made by hand.

Nothing in here uses the relay's code: what it is compared with has to be somebody else's.
"""
