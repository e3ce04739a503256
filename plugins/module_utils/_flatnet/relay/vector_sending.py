# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a peer is sent vectors, or packets because too many vectors are lost on the way.

A peer that reports too many losses, or that reports nothing at all, gets packets for a time, which
doubles each time. Then vectors are tried again.

A busy host loses or delays datagrams that have come all the way, and packets would only be more
work for it. So three things are no reason for packets. The receiver does not count what its own
queue had no room for. A sender that stood still itself begins to wait anew. A sender that hears
again from a peer that was silent goes on with vectors at once.
"""

from __future__ import annotations

from .vector_format import SERIAL, WORD

# Losses are judged once so many frames were sent, and only if more than a few of them are missing:
# a frame that others have overtaken may still arrive.
_ENOUGH = 32
_BEARABLE_LOSS = 0.02
_FEW = 2
# Seconds without a report.
_SILENCE = 3.0
# Seconds between two ticks. If it was longer, it was this host that stood still.
_STILL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 640.0


class Sending:
    """One worker's frames to one peer. While ``paused``, the peer is sent packets."""

    def __init__(self, now: float) -> None:
        self._serial = 0
        self._reported: tuple[int, int] | None = None
        self._unheard = 0
        self._unheard_since = self._ticked = now
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0
        self._silent = False
        self.paused = False
        self.fallbacks = 0

    def number(self) -> int:
        """The number of the next frame, which is sent now."""
        self._serial = (self._serial + 1) & SERIAL
        self._unheard += 1
        return self._serial

    def heard(self, sent: int, arrived: int, now: float) -> None:
        """Take in a report."""
        self._unheard = 0
        self._unheard_since = now
        if self.paused:
            if not self._silent:
                return  # about frames that were sent before the pause
            self.paused = False  # the peer's reports were only late
            self._pause = _FIRST_PAUSE
        before = self._reported
        if before is None or (sent - before[0]) & WORD > WORD // 2:
            # The first report, or the first one of a peer that has started anew.
            self._reported = (sent, arrived)
            return
        frames = (sent - before[0]) & WORD
        if frames < _ENOUGH:
            return
        self._reported = (sent, arrived)
        lost = frames - ((arrived - before[1]) & WORD)
        if lost > max(frames * _BEARABLE_LOSS, _FEW):
            self._fall_back(now, False)
        else:
            self._pause = _FIRST_PAUSE

    def tick(self, now: float) -> None:
        """A few times a second: end a pause that is over; begin one if the peer is silent."""
        still, self._ticked = now - self._ticked, now
        if still > _STILL:
            # Reports may have come meanwhile that are not read yet.
            self._unheard_since += still
        if self.paused and now >= self._paused_until:
            self.paused = False
            self._reported = None
            self._unheard = 0
        if self._unheard < _ENOUGH:
            self._unheard_since = now
        elif now - self._unheard_since > _SILENCE and not self.paused:
            self._fall_back(now, True)

    def _fall_back(self, now: float, silent: bool) -> None:
        self.paused = True
        self._silent = silent
        self.fallbacks += 1
        self._paused_until = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
