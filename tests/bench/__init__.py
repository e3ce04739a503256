# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of the targets for speed, in a lab: ``python3 -m tests.bench --help``."""

from __future__ import annotations

import sys
from pathlib import Path

# Where make venv links the working tree.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "collections"))
