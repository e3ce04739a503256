# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet on one machine: hosts, their underlay, etcd and pods as network namespaces.

    from tests.lab import Lab

    with Lab("demo", hosts=3) as lab:
        lab.hosts[0].exec(["ip", "route"])

The same lab from a shell: ``python3 -m tests.lab --help``. Only the standard library, iproute2,
util-linux, fping and etcd are needed, and root.
"""

from __future__ import annotations

from .etcd import Etcd
from .host import Host, Node, Pod
from .lab import Lab
from .system import LabError

__all__ = ["Etcd", "Host", "Lab", "LabError", "Node", "Pod"]
