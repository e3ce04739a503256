# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How flatnet-sync and flatnet-relay get onto a host, and what keeps them running.

``sync`` and ``relay`` are what is special to each program, ``installation`` what both have.
"""
