# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How hard hypothesis tries; ``make unit ARGS=--hypothesis-profile=thorough`` for a night of it.

The matrix takes ``quick``: it looks for what versions differ in, not for rare examples.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: the machines that run this are shared, and a slow example says nothing.
settings.register_profile(
    "flatnet", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("flatnet"), max_examples=3000)
settings.register_profile("quick", settings.get_profile("flatnet"), max_examples=20)
settings.load_profile("flatnet")
