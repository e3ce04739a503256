# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the agent tells what it does and what fails: to the log, and to its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from ..host.journal import ERROR, INFO, WARNING
from .status import Status

Log = Callable[[int, str], None]  # syslog's level, text
_NAMED = 3  # changes that a line of the log names


class Reporter:
    """One for all parts of an agent."""

    def __init__(self, status: Status, log: Log) -> None:
        self._status = status
        self.log = log

    def failed(self, what: str, text: str) -> None:
        """A failure of one kind: logged when it is news, and in the status until it is healed."""
        if self._status.failed(what, text):
            self.log(ERROR, text)

    def healed(self, what: str) -> None:
        """There is no failure of this kind any more."""
        self._status.healed(what)

    def tell(self, what: str, problem: str) -> None:
        """``failed`` if there is a problem, ``healed`` if there is none."""
        if problem:
            self.failed(what, problem)
        else:
            self.healed(what)

    def changed(self, why: str, changes: Sequence[object]) -> None:
        """Something was changed on the host. With ``why`` as ``drift`` it was a repair."""
        if not changes:
            return
        drift = why == "drift"
        self._status.applied(changes)
        if drift:
            self._status.repaired(changes)
        self.log(
            WARNING if drift else INFO,
            "%s: %d changes: %s%s"
            % (
                "repaired" if drift else why,
                len(changes),
                "; ".join(str(change) for change in changes[:_NAMED]),
                "; ..." if len(changes) > _NAMED else "",
            ),
        )
