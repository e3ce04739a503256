# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading JSON objects as Go does: the field helpers shared by configs and leases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .errors import InvalidInput


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def load_object(text: str | bytes, error: type[InvalidInput], what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise error("%s is not JSON: %s" % (what, show(text))) from None
    if not isinstance(value, dict):
        raise error("%s is not a JSON object: %s" % (what, show(text)))
    return value


def fold(raw: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Known fields under their usual names; like Go, an exact match wins over other cases."""
    out = {name: raw[name] for name in names if name in raw}
    if len(out) < len(raw):
        known = {name.lower(): name for name in names}
        for key, value in raw.items():
            name = known.get(str(key).lower())
            if name:
                out.setdefault(name, value)
    return {name: value for name, value in out.items() if value is not None}


def show(value: Any) -> str:
    """A foreign value, short enough for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
