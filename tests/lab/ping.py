# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches whom: every pair of nodes pinged at once."""

from __future__ import annotations

import typing as t
from ipaddress import IPv4Address

from .host import Node
from .system import LabError, parallel

#: IPv4 and ICMP headers, which fping adds to the size that it is given.
HEADERS = 28

Matrix = dict[tuple[str, str], bool]


def ping_matrix(
    nodes: t.Sequence[Node], size: int | None = None, df: bool = False, retries: int = 3
) -> Matrix:
    """Ping from each node to each other; the keys are (from, to), by name.

    size is the length of the whole IP packet, so the MTU is the largest that can pass with df.
    """
    names = [node.name for node in nodes]
    if len(set(names)) != len(names):
        raise LabError(f"nodes to ping need names of their own: {sorted(names)}")
    options = ["-a", "-q", "-r", str(retries), "-t", "500", "-i", "1"]
    if size is not None:
        options += ["-b", str(size - HEADERS)]
    if df:
        options.append("-M")

    def row(node: Node) -> Matrix:
        others = [other for other in nodes if other is not node]
        if not others:
            return {}
        done = node.exec(["fping", *options, *(other.address for other in others)])
        # 1: some do not answer. More is an error of fping's own.
        if done.returncode not in (0, 1):
            raise LabError(f"{node.name}: fping failed ({done.returncode}): {done.stderr.strip()}")
        alive = {IPv4Address(word) for word in done.stdout.split()}
        return {(node.name, other.name): IPv4Address(other.address) in alive for other in others}

    matrix: Matrix = {}
    for part in parallel(row, nodes):
        matrix.update(part)
    return matrix


def table(matrix: Matrix) -> str:
    """The matrix for people: a row for who pings, a column for who is pinged."""
    names = list(dict.fromkeys(source for source, _target in matrix))
    width = max([len(name) for name in names] + [4])
    lines = [" ".join(name.rjust(width) for name in ["", *names])]
    for source in names:
        cells = [source.rjust(width)]
        for target in names:
            word = "-" if source == target else "ok" if matrix[source, target] else "LOST"
            cells.append(word.rjust(width))
        lines.append(" ".join(cells))
    return "\n".join(lines)
