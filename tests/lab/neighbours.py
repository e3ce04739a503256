# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room for the neighbours of a lab.

The kernel has one table of neighbours for all namespaces, and the limit of its size belongs to the
machine. A fleet in which everyone talks to everyone overflows the default of 1024 with 33 hosts. So
a large lab raises the limit, and the last lab to leave puts back what was there.
"""

from __future__ import annotations

from pathlib import Path

_SYSCTL = Path("/proc/sys/net/ipv4/neigh/default")
_NAMES = ("gc_thresh3", "gc_thresh2", "gc_thresh1")  # largest first: they must stay in order


def make_room(hosts: int, memory: Path) -> None:
    """Let so many hosts all talk to each other; what was set before is kept in the file memory."""
    needed = 4 * hosts * hosts
    before = {name: int((_SYSCTL / name).read_text()) for name in _NAMES}
    if before["gc_thresh3"] >= needed:
        return
    if not memory.exists():
        memory.write_text("".join(f"{name} {value}\n" for name, value in before.items()))
    for name, part in zip(_NAMES, (1, 2, 4)):
        (_SYSCTL / name).write_text(str(max(before[name], needed // part)))


def restore(memory: Path) -> None:
    if not memory.exists():
        return
    for line in reversed(memory.read_text().splitlines()):
        name, value = line.split()
        (_SYSCTL / name).write_text(value)
    memory.unlink()
