# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay's status, for a person and for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import plain

_WIDEST = 10000


def table(found: Mapping[str, Any]) -> str:
    """What the relay is, what it has carried, and for which peers."""
    settings, offload = found["settings"], found["offload"]
    totals = found["totals"]
    words = {True: "yes", False: "no"}
    rows = [
        ("device", "%(device)s, MTU %(mtu)d, of %(subnet)s" % settings),
        ("underlay", "%(listen)s:%(port)d" % settings),
        ("process", "%d, %d workers" % (found["pid"], found["workers"])),
        ("device offload", offload["device"]),
        ("UDP_SEGMENT", words[offload["udp_segment"]]),
        ("UDP_GRO", words[offload["udp_gro"]]),
        ("receive buffer", _bytes(offload["receive_buffer"])),
        ("vectors", "to peers that take them" if settings["vector"] else "no"),
        ("table", "%(peers)d peers, revision %(revision)d" % found["table"]),
        ("sent", "%d datagrams, %s" % (totals["tx_packets"], _bytes(totals["tx_bytes"]))),
        ("received", "%d datagrams, %s" % (totals["rx_packets"], _bytes(totals["rx_bytes"]))),
        ("ICMP errors", "%d" % found["icmp_sent"]),
        ("dropped", _drops(found["drops"])),
        ("started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["started"]))),
    ]
    lines = ["%-15s %s" % row for row in rows]
    if found["table_error"]:
        lines.append("ERROR           %s" % found["table_error"])
    if found["peers"]:
        lines.append("")
        lines += _aligned(
            [("PEER", "SUBNETS", "SENT AS", "MTU", "SENT", "RECEIVED")]
            + [
                (
                    peer["address"],
                    " ".join(peer["subnets"]) or "-",
                    peer["mode"],
                    str(peer["mtu"]),
                    _bytes(peer["tx_bytes"]),
                    _bytes(peer["rx_bytes"]),
                )
                for peer in found["peers"]
            ]
        )
    # Escaped: somebody may have taken over the relay that says this.
    return "".join(plain(line, _WIDEST) + "\n" for line in lines)


def metrics(found: Mapping[str, Any]) -> str:
    """Prometheus' text format."""
    lines: list[str] = []
    totals = found["totals"]

    def add(name: str, kind: str, text: str, values: Sequence[tuple[str, float]]) -> None:
        full = "flatnet_relay_" + name
        lines.append("# HELP %s %s" % (full, text))
        lines.append("# TYPE %s %s" % (full, kind))
        lines.extend("%s%s %s" % (full, labels, value) for labels, value in values)

    add("peers", "gauge", "Peers in the table.", [("", found["table"]["peers"])])
    add("revision", "gauge", "etcd's revision of the table.", [("", found["table"]["revision"])])
    add("start_seconds", "gauge", "When the relay started.", [("", found["started"])])
    add("icmp_sent_total", "counter", "ICMP errors sent.", [("", found["icmp_sent"])])
    for what, text in (
        ("packets", "Datagrams"),
        ("bytes", "Bytes in datagrams"),
        ("vectors", "Frames in vectors"),
    ):
        for way, words in (("tx", "sent to peers."), ("rx", "received from peers.")):
            name = "%s_%s" % (way, what)
            labelled = [('{peer="%s"}' % peer["address"], peer[name]) for peer in found["peers"]]
            add("peer_%s_total" % name, "counter", "%s %s" % (text, words), labelled)
            add("%s_total" % name, "counter", "%s %s" % (text, words), [("", totals[name])])
    drops = sorted(found["drops"].items())
    add(
        "dropped_total",
        "counter",
        "Packets dropped, by reason.",
        [('{reason="%s"}' % reason, count) for reason, count in drops],
    )
    return "".join(plain(line) + "\n" for line in lines)


def _drops(drops: Mapping[str, int]) -> str:
    some = ["%s %d" % (reason, count) for reason, count in sorted(drops.items())]
    return ", ".join(some) or "nothing"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return "%.4g %s" % (count, unit)
        count /= 1000
    return "%.4g TB" % count


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
