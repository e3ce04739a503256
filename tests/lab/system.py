# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab asks of the machine: commands, namespaces, their processes, mounts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .signals import undisturbed

NETNS_DIR = Path("/run/netns")

T = t.TypeVar("T")
R = t.TypeVar("R")


class LabError(Exception):
    """The lab cannot do what it was asked; the message is for its user."""


def run(argv: t.Sequence[str], stdin: str | None = None) -> str:
    """Run a command of the machine and return what it prints."""
    pipe = subprocess.PIPE
    try:
        # A signal between the start and our knowing of it would leave the command to itself.
        with undisturbed():
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError as exc:
        raise LabError(f"the lab needs {argv[0]!r}, which is not installed") from exc
    with process:
        try:
            out, error = process.communicate(stdin or "")
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed ({process.returncode}): {error.strip()}")
    return out


def ip_batch(lines: t.Iterable[str], netns: str | None = None) -> None:
    """Run many ip(8) commands in one process."""
    text = "".join(f"{line}\n" for line in lines)
    where = ["-n", netns] if netns else []
    if text:
        run(["ip", *where, "-batch", "-"], stdin=text)


def parallel(function: t.Callable[[T], R], items: t.Iterable[T]) -> list[R]:
    """Apply function to all items, a few at a time: each mostly waits for a process."""
    pool = ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1))
    try:
        # A signal while a thread starts would leave the thread unknown to the pool.
        with undisturbed():
            futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in futures]
    finally:
        # Whoever cleans up after us must find nothing still being made.
        with undisturbed():
            pool.shutdown(cancel_futures=True)


def netns_exists(netns: str) -> bool:
    return (NETNS_DIR / netns).exists()


def netns_pids(namespaces: t.Iterable[str]) -> list[int]:
    """The processes that are in one of the namespaces, whoever started them."""
    wanted = set()
    for netns in namespaces:
        try:
            wanted.add((NETNS_DIR / netns).stat().st_ino)
        except FileNotFoundError:
            continue
    if not wanted:
        return []
    pids = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            inode = os.stat(f"/proc/{entry}/ns/net").st_ino
        except OSError:  # it ended, or it is a zombie
            continue
        if inode in wanted:
            pids.append(int(entry))
    return pids


def kill_netns_processes(namespaces: t.Sequence[str], timeout: float = 60) -> None:
    """End every process in the namespaces; repeated, since a process may just have forked."""
    deadline = time.monotonic() + timeout
    while True:
        pids = netns_pids(namespaces)
        if not pids:
            return
        if time.monotonic() > deadline:
            raise LabError(f"processes {pids} do not end although they were killed")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def mounts_below(directory: Path) -> list[str]:
    """Mount points in the directory, deepest first."""
    prefix = f"{directory}/"
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            point = line.split(" ")[4].encode().decode("unicode_escape")
            if point.startswith(prefix):
                points.append(point)
    return sorted(points, key=len, reverse=True)
