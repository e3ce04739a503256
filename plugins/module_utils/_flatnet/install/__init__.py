# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How flatnet-sync and flatnet-relay get onto a host, and what keeps them running there.

``installation`` looks at a host and changes it, ``plan`` compares, ``target`` is the host.
``package`` is the code on a host, ``services`` what keeps it running: systemd, or ``supervisor``.
``sync`` and ``relay`` have what is special to each program.

Others use ``sync``, ``relay``, ``Installation`` and ``plan.diff``.
"""
