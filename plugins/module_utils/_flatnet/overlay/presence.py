# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether another machine has an address now.

A lease may have this host's identity and another address. Then it is this machine's, from before
its address changed, or it belongs to a machine cloned from the same image. Only a clone still
answers.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterable

from ..errors import option
from ..flannel.assignment import Decision, DuplicateHostID
from ..flannel.host import Host
from ..kernel.entries import Address

# Either answer will do: a connection, or its refusal. Firewalls let SSH's port pass, if any.
_PORTS = (22, 1)
_PATIENCE = 2.0  # seconds


def refuse_clone(decision: Decision, host: Host, addresses: Iterable[Address]) -> None:
    """Raise DuplicateHostID if another machine uses the lease that ``host`` holds. ``addresses``
    are all that this machine has: where it has several, any may have been the first."""
    held = decision.before
    if held is None or held.host_id != host.host_id or held.public_ip == host.public_ip:
        return
    if held.public_ip in (each.address.partition("/")[0] for each in addresses):
        return
    if elsewhere(held.public_ip):
        raise DuplicateHostID(
            "host id %s of %s is also that of a machine that answers at %s, the address of the "
            "lease %s; if one machine is a clone of the other, give this one a machine-id of its "
            "own; if another machine has this one's former address now, set %s"
            % (host.host_id, host, held.public_ip, held.subnet, option("takeover"))
        )


def elsewhere(address: str, patience: float = _PATIENCE) -> bool:
    """Whether another machine answers at an IPv4 address, within ``patience`` seconds.

    A machine that stays silent, because its firewall drops everything, counts as gone.
    """
    until = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        waiting: dict[int, socket.socket] = {}
        poll = select.poll()
        for port in _PORTS:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
            code = probe.connect_ex((address, port))
            if code in (0, errno.ECONNREFUSED):
                return True
            if code == errno.EINPROGRESS:
                waiting[probe.fileno()] = probe
                poll.register(probe.fileno(), select.POLLOUT)
        while waiting:
            ready = poll.poll(max(until - time.monotonic(), 0) * 1000)
            if not ready:
                return False
            for number, _event in ready:
                code = waiting.pop(number).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                poll.unregister(number)
                if code in (0, errno.ECONNREFUSED):
                    return True
    return False
