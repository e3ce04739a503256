# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fields of ``Backend`` in the network's config: read, written, and offered as options.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .. import fields as json


class Field(NamedTuple):
    """One field. ``option`` is its name in modules and in the backend's class. ``low`` and ``high``
    are the range of a number; without them the field is true or false. ``zero``: whether 0 means
    "not set", as in Go. ``offered``: whether users may set it; if not, it is only read."""

    name: str
    option: str
    default: int | bool | None
    low: int | None = None
    high: int | None = None
    zero: bool = True
    offered: bool = True

    @property
    def is_number(self) -> bool:
        return self.low is not None

    def read(self, value: Any) -> Any:
        """The value, or the default; raises InvalidInput naming the field."""
        where = "Backend." + self.name
        if self.low is None or self.high is None:
            return json.boolean(where, value, bool(self.default))
        given = json.given(value) if self.zero else value
        return json.whole_number(where, given, self.default, self.low, self.high)


MTU = Field("MTU", "mtu", None, 576, 65535)


def port_field(default: int) -> Field:
    """The UDP port."""
    return Field("Port", "port", default, 1, 65535)


def read(fields: Iterable[Field], raw: dict[str, Any]) -> dict[str, Any]:
    """The values by the names of options; raises InvalidInput naming the field."""
    fields = tuple(fields)
    found = json.fold(raw, {field.name for field in fields})
    return {field.option: field.read(found.get(field.name)) for field in fields}


def write(fields: Iterable[Field], backend: object) -> dict[str, Any]:
    """The values by the names of fields, without those that are None or false."""
    values = ((field, getattr(backend, field.option)) for field in fields)
    return {
        field.name: value
        for field, value in values
        if (value is not None if field.is_number else value)
    }
