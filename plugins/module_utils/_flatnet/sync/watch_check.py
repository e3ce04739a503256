# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a watch that is quiet has nothing to tell, or will never tell anything again.

A watch lasts as long as its connection does. But it may be silent for ever, and the connection does
not tell: the member hangs, is cut off from the others or lags behind, or something on the way has
forgotten the connection. So:

- Every ``INTERVAL`` seconds the watch's member is asked for etcd's revision. It can answer only as
  a part of the quorum, and when it has taken in all that was written before. Without an answer for
  ``QUIET`` seconds the host counts as not connected; after etcd's timeout the watch is given up.
- The answer is compared with what the watch has told. If etcd is ahead, and stays ahead for the
  time of ``patience``, the watch is given up as well. Where others write to the same etcd, it is
  normal that etcd is ahead. So each time that a new watch did not help, the patience doubles, up to
  ``LONGEST_PATIENCE``. It is short again when the watch has told all.

If a watch is given up because its member is silent, go on with another watch from the same
revision, and do not list. The member may be silent because of its load, and if all hosts listed
then, the load would last.

A question is a hundred bytes each way and reads one key. Ten thousand hosts ask a thousand such
questions a second.
"""

from __future__ import annotations

import random
import time

from ..etcd.client import EtcdTimeout, EtcdUnreachable
from ..etcd.watching import Pulse, Watch

# Seconds.
INTERVAL = 10.0
QUIET = 2.0
PATIENCE, LONGEST_PATIENCE = 4.0, 600.0


class WatchBehind(EtcdUnreachable):
    """The watch does not tell what etcd has; another one, from where it is, may."""


class WatchSilent(EtcdTimeout):
    """The watch's member does not answer, though its connections stand."""


class WatchCheck:
    """Over one watch after the other: ``begin`` it, then ``look`` when ``due`` or readable."""

    def __init__(self) -> None:
        # Whether the watch's member answers; and whether it ever has.
        self.answered = True
        self.confirmed = False
        self._watch: Watch | None = None
        self._pulse: Pulse | None = None
        self._patience = PATIENCE
        self._next = 0.0
        self._asked = 0.0
        # Since when which revision is known to be, and not told by the watch.
        self._ahead = 0
        self._since: float | None = None

    def begin(self, watch: Watch, pulse: Pulse) -> None:
        """Watch over this one from now on."""
        self.end()
        self._watch, self._pulse = watch, pulse
        # At once, while it is known to take connections.
        self._next = time.monotonic()

    def end(self) -> None:
        """There is no watch any more."""
        if self._pulse is not None:
            self._pulse.close()
        self._watch = self._pulse = self._since = None
        self.answered = True
        self.confirmed = False

    def fileno(self) -> int | None:
        """To be polled, where there is one."""
        return self._pulse.fileno() if self._pulse is not None else None

    @property
    def due(self) -> float | None:
        """When to look again, by time.monotonic()."""
        if self._pulse is None:
            return None
        if not self._pulse.asked:
            return self._next
        quiet = self._asked + QUIET
        return quiet if self.answered and quiet < self._pulse.deadline else self._pulse.deadline

    def look(self, told: int) -> None:
        """``told`` is the revision up to which the watch has told all. Raises an EtcdError if the
        watch is no good any more."""
        pulse, watch = self._pulse, self._watch
        if pulse is None or watch is None:
            return
        now = time.monotonic()
        if pulse.asked:
            try:
                answer = pulse.read()
            except EtcdTimeout as error:
                raise WatchSilent(str(error)) from None
            if answer is not None:
                self.answered = self.confirmed = True
                self._compare(watch, answer.revision, answer.cluster, told, now)
            elif now >= self._asked + QUIET:
                self.answered = False
        elif now >= self._next:
            self._asked = now
            pulse.ask()

    def _compare(self, watch: Watch, revision: int, cluster: int, told: int, now: float) -> None:
        if cluster != watch.cluster:
            raise EtcdUnreachable(
                "etcd at %s is of another cluster now (%x, not %x)"
                % (watch.endpoint, cluster, watch.cluster)
            )
        self._next = now + INTERVAL * random.uniform(0.8, 1.2)
        if revision <= told:
            self._patience, self._since = PATIENCE, None
        elif self._since is None or told >= self._ahead:
            self._ahead, self._since = revision, now
        elif now - self._since >= self._patience:
            waited = self._patience
            self._patience = min(waited * 2, LONGEST_PATIENCE)
            raise WatchBehind(
                "the watch at %s has told revision %d, and etcd has been at %d for %d seconds"
                % (watch.endpoint, told, self._ahead, now - self._since)
            )
        if self._since is not None:
            # Until it is certain; the patience may be longer than the usual pause.
            self._next = min(self._next, max(self._since + self._patience, now + QUIET))
