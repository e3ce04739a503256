# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core: everything but documentation, arguments and results of the modules.

On a host that runs one of its programs it is the package ``flatnet``. Each folder is a subject and
imports only from the folders below it; CONTRIBUTING.md has the drawing. The leading underscore says
that nobody outside this collection may import it.

This file and those like it import nothing: each import travels with every task to every host.
"""
