# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which machine this is."""

from __future__ import annotations

from ..errors import InvalidInput, option
from ..fields import parse_name
from ..identity import host_id

_MACHINE_ID = "/etc/machine-id"


def identify(given: str | None) -> str:
    """The host id: as given, or made from the machine id."""
    if given:
        return parse_name("host_id", given)
    try:
        with open(_MACHINE_ID, encoding="ascii") as file:
            return host_id(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "%s is not set and %s cannot be read: %s" % (option("host_id"), _MACHINE_ID, error)
        ) from None
