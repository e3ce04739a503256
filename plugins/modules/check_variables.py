#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_variables
version_added: 0.1.0
short_description: Checks a fleet's variables before anything changes
description:
  - Looks at the variables of all hosts of the play whose names begin with C(flatnet_). A name that
    no role documents is an error, which names the most similar variable. Other errors are a value
    of a wrong type, a value that is not among the choices, a value that a later step would refuse,
    and values that exclude each other, on one host or between hosts.
  - It knows the variables from the roles' argument specs, which C(ansible-doc -t role) shows.
  - Runs on the controller, once for the whole play, without a connection. Reports all errors at
    once.
  - A template is evaluated for each host that has it, or for one of them if it has a lookup.
  - Private to the roles and playbooks of this collection, which run it first.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
options:
  group:
    description:
      - Require that this group has hosts, among those that C(--limit) leaves. Then only the names
        of the play's variables are checked, and not the values of hosts.
    type: str
  remove:
    description:
      - Names of hosts and groups, separated by commas. Each has to name hosts of O(group).
    type: str
"""

EXAMPLES = r"""
- name: Check the variables of all hosts
  flatnet.overlay.check_variables:
  run_once: true
"""

RETURN = r"""
"""
