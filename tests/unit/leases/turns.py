# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two or more tasks that use one fake etcd, one call at a time, in an order that a test chooses."""

from __future__ import annotations

import threading
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import EtcdClient

from tests.unit.leases.fake_etcd import FakeEtcd


class Turn:
    """One task, in a thread of its own that runs only between ``step`` and its next call."""

    def __init__(self, etcd: FakeEtcd, task: t.Callable[[EtcdClient], object]) -> None:
        self._etcd = etcd
        self._task = task
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self.ended = False
        self.result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self) -> None:
        """Carry out the call that it waits to make, and all that it does until its next one."""
        self._go.release()
        self._stopped.acquire()
        if self.ended:
            self._thread.join()

    def _run(self) -> None:
        self._wait()
        try:
            self.result = self._task(t.cast(EtcdClient, self))
        except Exception as error:  # noqa: BLE001  the test looks at it
            self.result = error
        self.ended = True
        self._stopped.release()

    def _wait(self) -> None:
        self._stopped.release()
        self._go.acquire()

    def __getattr__(self, name: str) -> t.Any:
        """A call of the client: it waits for its turn."""
        call = getattr(self._etcd, name)

        def in_turn(*arguments: t.Any, **named: t.Any) -> t.Any:
            self._wait()
            return call(*arguments, **named)

        return in_turn


def interleave(
    etcd: FakeEtcd,
    tasks: t.Sequence[t.Callable[[EtcdClient], object]],
    choose: t.Callable[[int], int],
    after_each: t.Callable[[], object] = lambda: None,
) -> list[object]:
    """Run the tasks to their ends; what each returned or raised.

    ``choose`` is given how many have not ended, and says whose turn it is. ``after_each`` looks at
    etcd after each call.
    """
    turns = [Turn(etcd, task) for task in tasks]
    while True:
        running = [turn for turn in turns if not turn.ended]
        if not running:
            return [turn.result for turn in turns]
        running[choose(len(running)) if len(running) > 1 else 0].step()
        after_each()
