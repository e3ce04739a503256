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

from ..errors import option
from ..flannel.assignment import Decision, DuplicateHostID, Host

# Either answer will do: a connection, or its refusal. Firewalls let SSH's port pass, if any.
_PORTS = (22, 1)
_PATIENCE = 2.0  # seconds


def refuse_clone(decision: Decision, host: Host) -> None:
    """Raise DuplicateHostID if another machine uses the lease that ``host`` holds."""
    held = decision.before
    if held is None or held.host_id != host.host_id or held.public_ip == host.public_ip:
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
    return not _is_local(address) and _answers(address, patience)


def _is_local(address: str) -> bool:
    """Whether an address is this machine's: then the kernel would send to it from this address.
    Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((address, _PORTS[0]))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address)


def _answers(address: str, patience: float) -> bool:
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
