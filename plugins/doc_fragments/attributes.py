# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module of this collection can be relied on for, in Ansible's own terms."""

from __future__ import annotations


class ModuleDocFragment:
    # Modules that change something.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would change, without changing it.
    support: full
  diff_mode:
    description: Returns what it changed, or in check mode would change, when in diff mode.
    support: full
  idempotent:
    description: Changes nothing, and says so, when run again with the same arguments.
    support: full
"""

    # Modules that only read.
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would change, without changing it.
    support: full
    details:
      - It changes nothing in any mode.
  diff_mode:
    description: Returns what it changed, or in check mode would change, when in diff mode.
    support: N/A
    details:
      - It changes nothing.
  idempotent:
    description: Changes nothing, and says so, when run again with the same arguments.
    support: full
"""
