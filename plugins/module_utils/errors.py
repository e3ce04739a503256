# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root of every error that a user is meant to read."""

from __future__ import annotations


class FlatnetError(Exception):
    """Something is wrong that the user can act on; ``str()`` is the sentence to show."""


class InvalidInput(FlatnetError):
    """A value the user gave, or one read from etcd, breaks a rule; names the field."""
