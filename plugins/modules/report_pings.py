#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: report_pings
version_added: 0.1.0
short_description: Reports the results of a fleet's pings
description:
  - Prints a sorted table of the peers that did not answer, and fails if there are any. It uses what
    M(flatnet.overlay.overlay_ping) returned on all hosts of the play, or of its present batch.
  - A host that failed in an earlier step is named once, with the error of that step. Pings to this
    host are not listed.
  - Runs on the controller, once for the whole play, without a connection.
  - Private to the role C(flatnet.overlay.verify).
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes.info
options: {}
seealso:
  - module: flatnet.overlay.overlay_ping
"""

EXAMPLES = r"""
- name: Require that every host reaches every peer
  flatnet.overlay.report_pings:
  run_once: true
"""

RETURN = r"""
"""
