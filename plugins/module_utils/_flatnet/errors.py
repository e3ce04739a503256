# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root of every error that a user is meant to read."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Around the name of an option in an error's text. What users gave is never printed with these.
_BEGIN, _END = "\x02", "\x03"
_OPTION = re.compile(r"%s([^%s]*)%s" % (_BEGIN, _END, _END))


def option(name: str) -> str:
    """An option's name for the text of an error, which whoever called knows by a name of its own:
    for the roles it is a variable. ``name`` may go on, as in ``backend.vni`` and ``leases[3]``."""
    return name if name.startswith(_BEGIN) else _BEGIN + name + _END


def called(text: str, names: Mapping[str, str]) -> str:
    """The text with the names that the caller has for options, or with their own."""

    def known(found: re.Match[str]) -> str:
        first = re.match(r"\w*", found[1])
        word = first[0] if first else ""
        return names.get(word, word) + found[1][len(word) :]

    return _OPTION.sub(known, text)


class FlatnetError(Exception):
    """Something is wrong that the user can act on; ``str()`` is the sentence to show.

    Options in it are named by ``option``.
    """

    def __str__(self) -> str:
        return called(super().__str__(), {})

    def told(self, names: Mapping[str, str]) -> str:
        """The sentence with the names that the caller has for options."""
        return called(super().__str__(), names)


class InvalidInput(FlatnetError):
    """A value the user gave, or one read from etcd, breaks a rule.

    The sentence names the field. ``fields`` are its name, or the names of those that do not go
    together, for a caller that knows the fields by names of its own.
    """

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


class LosingAllPeers(FlatnetError):
    """No peer is left in etcd while this host still reaches some."""
