# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task of a playbook asks for; the modules in ``plugins/modules`` use it.

Only ``module`` here, and nothing else in the core, imports Ansible.
"""
