# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root of every error that a user is meant to read, and what makes its text fit to be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

# They mark the name of an option in an error's text. Values of users are printed without them.
_BEGIN, _END = "\x02", "\x03"
_OPTION = re.compile(r"%s([^%s]*)%s" % (_BEGIN, _END, _END))


def option(name: str) -> str:
    """An option's name, marked for the text of an error. The caller may show another name for it:
    the roles show a variable's. ``name`` may have more parts: ``backend.vni``, ``leases[3]``."""
    return name if name.startswith(_BEGIN) else _BEGIN + name + _END


def called(text: str, names: Mapping[str, str]) -> str:
    """The text, with options under the caller's ``names``, or under their own."""

    def known(found: re.Match[str]) -> str:
        first = re.match(r"\w*", found[1])
        word = first[0] if first else ""
        return names.get(word, word) + found[1][len(word) :]

    return _OPTION.sub(known, text)


def plain(text: object, limit: int = 1000) -> str:
    """A text that may come from etcd, a peer or the relay, made fit for one line of output.

    Characters that would steer a terminal, or begin a line that looks like ours, are escaped. Every
    line for a terminal, the journal or Ansible's output goes through this. More than ``limit``
    characters are cut off.
    """
    given = str(text)
    if len(given) > limit:
        given = given[: limit - 3] + "..."
    if given.isprintable():
        return given
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in given)


class FlatnetError(Exception):
    """Something is wrong that the user can act on; ``str()`` is the sentence to show.

    The sentence says where (host, key, device, option), what is wrong, and what to do, in this
    order: ``mtu: 67 is not from 68 to 65535``. Its parts are joined by colons and semicolons, and
    it has no full stop. Options in it are marked by ``option``.
    """

    def __str__(self) -> str:
        return called(super().__str__(), {})

    def told(self, names: Mapping[str, str]) -> str:
        """The sentence, with options under the caller's ``names``."""
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
    """etcd has no peer any more, while this host still reaches some."""
