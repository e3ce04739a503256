# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What flatnet-sync says about itself: as JSON, as a table, as metrics.

Pure but for time. Times are seconds since the epoch, if their names do not say otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..errors import plain
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease
from ..overlay.location import HostLocation
from ..overlay.peer_table import PeerTable
from ..overlay.rules import Skipped

_NOTHING: Mapping[str, str] = MappingProxyType({})
_KEPT = 20  # of the last repairs
_SHOWN = 100  # of leases that are not used


class Status:
    """Counters and the present state. ``pid`` is the service's process, None if there is none.
    ``born`` says when the process began that wrote this: see host/processes.py."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.born: int | None = None
        self.listings = 0
        self.retained = 0
        self._started = time.time()
        self._endpoint: str | None = None
        self._location: dict[str, Any] = {}
        self._revision = 0
        self._peers = 0
        self._skipped: list[str] = []
        self._changes = 0
        self._last_change: float | None = None
        self._repaired = 0
        self._repairs: list[dict[str, Any]] = []
        self._errors: dict[str, dict[str, Any]] = {}

    def connected(self, endpoint: str | None) -> None:
        """There is a watch at this endpoint of etcd, and the member answers; None: there is none,
        or it does not answer."""
        self._endpoint = endpoint

    def located(self, config: NetworkConfig, own: Lease, location: HostLocation) -> None:
        self._location = {
            "network": config.network,
            "backend": config.backend.type,
            "device": config.backend.device,
            "subnet": own.subnet,
            "public_ip": own.public_ip,
            "host_id": own.host_id,
            "interface": location.underlay.interface,
            "mtu": config.backend.overlay_mtu(location.underlay.mtu),
        }

    def known(
        self,
        table: PeerTable,
        unreadable: Mapping[str, str],
        revision: int,
        reached: int | None = None,
        refused: Mapping[str, str] = _NOTHING,
    ) -> None:
        """All leases. ``reached`` is how many peers the kernel, or the relay, sends packets to;
        None if it was not compared with the table yet. ``refused`` are leases that the kernel
        refuses, by key name, and why."""
        self._revision = revision
        if reached is not None:
            self._peers = reached
        if table.skipped or unreadable or refused or self._skipped:
            self._skipped = [str(each) for each in table.skipped.values()]
            self._skipped += [
                str(Skipped(table.leases[name], "the kernel refuses to " + reason))
                for name, reason in refused.items()
            ]
            self._skipped += ["key %s: %s" % each for each in unreadable.items()]

    def applied(self, changes: Sequence[object]) -> None:
        self._changes += len(changes)
        self._last_change = time.time()

    def repaired(self, changes: Sequence[object]) -> None:
        self._repaired += len(changes)
        now = time.time()
        self._repairs += [{"time": now, "what": str(change)} for change in changes[:_KEPT]]
        del self._repairs[:-_KEPT]

    def failed(self, what: str, text: str) -> bool:
        """Note a failure of one kind; True if it is news."""
        known = self._errors.get(what)
        if known and known["text"] == text:
            return False
        self._errors[what] = {"since": known["since"] if known else time.time(), "text": text}
        return True

    def healed(self, what: str) -> None:
        self._errors.pop(what, None)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self._location,
            "pid": self.pid,
            "born": self.born,
            "started": self._started,
            "updated": time.time(),
            # By a clock that nobody sets.
            "updated_monotonic": time.monotonic(),
            "connected": self._endpoint is not None,
            "endpoint": self._endpoint,
            "revision": self._revision,
            "peers": self._peers,
            "unused": self._skipped,
            "retained": self.retained,
            "listings": self.listings,
            "changes": self._changes,
            "last_change": self._last_change,
            "repaired": self._repaired,
            "repairs": self._repairs,
            "errors": [{"what": what, **each} for what, each in sorted(self._errors.items())],
        }


def table(found: Mapping[str, Any]) -> str:
    """The status for a person. ``found["running"]`` tells whether its service is still there."""
    rows = [
        ("network", "%s over %s" % (found.get("network"), found.get("backend"))),
        ("subnet", found.get("subnet")),
        ("underlay", "%s on %s" % (found.get("public_ip"), found.get("interface"))),
        ("device", "%s, MTU %s" % (found.get("device") or "none", found.get("mtu"))),
        ("service", "running, process %d" % found["pid"] if found["running"] else "not running"),
        ("etcd", "watching at %s" % found["endpoint"] if found["connected"] else "not connected"),
        ("revision", found["revision"]),
        ("peers", found["peers"]),
        ("changes", "%d, the last %s" % (found["changes"], _when(found["last_change"]))),
        ("drift repaired", found["repaired"]),
        ("started", _when(found["started"])),
        ("as of", _when(found["updated"])),
    ]
    lines = ["%-15s %s" % row for row in rows]
    lines += ["repaired        %s %s" % (_when(e["time"]), e["what"]) for e in found["repairs"]]
    unused = found["unused"]
    lines += ["unused          %s" % each for each in unused[:_SHOWN]]
    if len(unused) > _SHOWN:
        lines.append("unused          %d more; --json tells of all" % (len(unused) - _SHOWN))
    lines += [
        "ERROR           %s (since %s)" % (e["text"], _when(e["since"])) for e in found["errors"]
    ]
    return "".join(plain(line) + "\n" for line in lines)


def metrics(found: Mapping[str, Any]) -> str:
    """The status in Prometheus' text format, for node_exporter's textfile collector."""
    values = [
        (
            "connected",
            "gauge",
            "Whether a watch on etcd stands and is answered.",
            int(found["connected"]),
        ),
        ("revision", "gauge", "etcd's revision that the host is at.", found["revision"]),
        ("peers", "gauge", "Peers that this host reaches.", found["peers"]),
        ("retained_peers", "gauge", "Peers that etcd does not name.", found["retained"]),
        (
            "config_waits",
            "gauge",
            "Whether etcd has a config of the network that this host cannot go over to.",
            int(any(each["what"] == "config" for each in found["errors"])),
        ),
        ("unused_leases", "gauge", "Leases that are not used.", len(found["unused"])),
        ("errors", "gauge", "Failures that last.", len(found["errors"])),
        ("listings_total", "counter", "Complete listings of the leases.", found["listings"]),
        ("changes_total", "counter", "Changes made to the kernel.", found["changes"]),
        ("drift_repaired_total", "counter", "Changes that were repairs.", found["repaired"]),
        ("updated_seconds", "gauge", "When this was written.", found["updated"]),
    ]
    lines = []
    for short, kind, text, value in values:
        name = "flatnet_" + short
        lines += ["# HELP %s %s" % (name, text), "# TYPE %s %s" % (name, kind)]
        lines.append("%s %s" % (name, value))
    return "\n".join(lines) + "\n"


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
