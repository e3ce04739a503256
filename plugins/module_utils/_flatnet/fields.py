# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading JSON objects as Go does: the field helpers shared by configs and leases."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from typing import Any

from .errors import InvalidInput

# Made once: json.dumps would make one for each of thousands of leases.
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def dumps(value: Any) -> str:
    return _ENCODER.encode(value)


def _refuse(constant: str) -> Any:
    raise ValueError("%s is not JSON" % constant)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields have the order in which they occur last."""
    out = dict(pairs)
    if len(out) < len(pairs):
        out.clear()
        for key, value in pairs:
            out.pop(key, None)
            out[key] = value
    return out


# Python's own takes NaN and Infinity, which make flannel take the whole value for garbage.
_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_pairs)


def load_object(text: str | bytes, error: type[InvalidInput], what: str) -> dict[str, Any]:
    try:
        # Not left to json, which takes UTF-16 and UTF-32 too.
        value = _DECODER.decode(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise error("%s is not JSON: %s" % (what, show(text))) from None
    if not isinstance(value, dict):
        raise error("%s is not a JSON object: %s" % (what, show(text)))
    return value


def fold(raw: dict[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    """The fields with these ``names``, under these names. As in Go, upper and lower case are equal,
    and the last of several counts. None counts as not there."""
    out = {key: value for key, value in raw.items() if value is not None}
    if out.keys() <= names:
        return out
    known = {name.lower(): name for name in names}
    out = {}
    for key, value in raw.items():
        name = known.get(str(key).lower())
        if name and value is not None:
            out[name] = value
    return out


def is_number(value: Any) -> bool:
    """Whether a decoded value is a whole number. True is none, as in Go and unlike in Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def given(value: Any, default: Any = None) -> Any:
    """``default`` for Go's zero values, which mean "not set"."""
    unset = value in (None, "") or (is_number(value) and value == 0)
    return default if unset else value


def whole_number(name: str, value: Any, default: Any, low: int, high: int) -> Any:
    """A number from ``low`` to ``high``, or the default for None; raises InvalidInput."""
    if value is None:
        return default
    if not is_number(value) or not low <= value <= high:
        raise InvalidInput(
            "%s %s is not a whole number from %d to %d" % (name, show(value), low, high), name
        )
    return value


def boolean(name: str, value: Any, default: bool) -> bool:
    """True or false, or the default for None; raises InvalidInput."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidInput("%s %s must be true or false" % (name, show(value)), name)
    return value


def parse_name(where: str, value: Any, error: type[InvalidInput] = InvalidInput) -> str:
    """A name that can be compared, printed and written again: printable text of at most 253
    characters. None becomes the empty name. Raises ``error``."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 253:
        raise error("%s %s is not printable text" % (where, show(value)))
    return value


def show(value: Any) -> str:
    """A value from elsewhere, as ``repr`` shows it, in at most 80 characters."""
    try:
        text = repr(value)
    except RecursionError:  # repr takes less nesting than the decoder did
        text = "(deeply nested)"
    return text if len(text) <= 80 else text[:77] + "..."
