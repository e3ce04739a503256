# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay beside what else carries packets from pod to pod, in one run: ``make bench-relay``.

All of them are up at once and take turns in short rounds, so that noise hits all alike. With
FLANNELD=<path of a flanneld> in the environment a real one is among them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from collections import defaultdict

from tests.lab import LabError, Node

from . import report
from .carriers import FLANNELD, LOOP, RAW, RELAY, TITLES, VECTOR, Carrier, all_up
from .measure import Part, count, median, times

BEGIN, END = "<!-- written by make bench-relay -->", "<!-- end of what make bench-relay writes -->"

TCP, TCP4, UDP, IDLE, LOADED, COST = "tcp", "tcp4", "udp", "idle", "loaded", "cost"
HEADS = {
    TCP: "TCP, Gbit/s",
    TCP4: "four streams, Gbit/s",
    UDP: "64-byte UDP, 1000/s",
    IDLE: "ping idle, ms",
    LOADED: "ping loaded, ms",
    COST: "CPU seconds/GB",
}
FORMS = {TCP: "%.2f", TCP4: "%.2f", UDP: "%.1f", IDLE: "%.3f", LOADED: "%.2f", COST: "%.2f"}

# flannel's C proxy on a machine such as that of the targets.
PROXY = {TCP: 0.56, UDP: 66.0, IDLE: 0.38}
# What the relay has to reach of it, or of a flanneld of the same run.
FASTER = {RELAY: 4.0, VECTOR: 10.0}
PACKETS = 1.5

_TOOLS = {"iperf3": "iperf3", "ping": "iputils-ping"}

#: What was measured, round by round, of each carrier.
Figures = dict[str, dict[str, list[float]]]


def measure(name: str, quick: bool) -> tuple[Part, Figures]:
    _demand()
    flanneld = os.environ.get("FLANNELD") or None
    if flanneld and not (os.path.isfile(flanneld) and os.access(flanneld, os.X_OK)):
        raise LabError("FLANNELD=%s is not a program" % flanneld)
    rounds, seconds = (1, 1) if quick else (5, 3)
    found: Figures = defaultdict(lambda: defaultdict(list))
    paused = 0
    with all_up(name, flanneld) as carriers:
        for number in range(rounds):
            print("  round %d of %d" % (number + 1, rounds), flush=True)
            for step in (_idle, _one_stream, _four_streams, _packets):
                for carrier in carriers:
                    for what, value in step(carrier, seconds).items():
                        found[carrier.name][what].append(value)
                    paused += carrier.fallen_back()
        for carrier in carriers:
            carrier.check()
    part = Part("The relay, with rounds of %d s" % seconds)
    medians = {name: {w: median(v) for w, v in row.items()} for name, row in found.items()}
    _ratios(part, medians)
    part.show("measurements after which vectors had fallen back to packets", count(paused))
    return part, found


def _demand() -> None:
    for tool, package in _TOOLS.items():
        if not shutil.which(tool):
            raise LabError("%s is missing: apt-get install %s" % (tool, package))


# --- what is measured -----------------------------------------------------------------------------


def _idle(carrier: Carrier, seconds: int) -> dict[str, float]:
    one, other = carrier.ends
    with _ping(one, other.address, seconds) as process:
        return {IDLE: _round_trip(process)}


def _one_stream(carrier: Carrier, seconds: int) -> dict[str, float]:
    one, other = carrier.ends
    before = carrier.cpu()
    with _ping(one, other.address, seconds) as process:
        received = _iperf(one, other, seconds)["sum_received"]
        # It ends when the stream does; what it is told after that is not of the load.
        process.send_signal(signal.SIGINT)
        figures = {TCP: received["bits_per_second"] / 1e9, LOADED: _round_trip(process)}
    if carrier.in_userspace:
        figures[COST] = (carrier.cpu() - before) / (received["bytes"] / 1e9)
    return figures


def _four_streams(carrier: Carrier, seconds: int) -> dict[str, float]:
    one, other = carrier.ends
    found = _iperf(one, other, seconds, "-P", "4")
    return {TCP4: found["sum_received"]["bits_per_second"] / 1e9}


def _packets(carrier: Carrier, seconds: int) -> dict[str, float]:
    one, other = carrier.ends
    found = _iperf(one, other, seconds, "-u", "-l", "64", "-b", "0")["sum"]
    return {UDP: (found["packets"] - found["lost_packets"]) / found["seconds"] / 1000}


def _iperf(one: Node, other: Node, seconds: int, *options: str) -> dict[str, t.Any]:
    """From one to the other; what is at the end of iperf3's report."""
    try:
        return _iperf_once(one, other, seconds, *options)
    except LabError as error:
        # Where a flood fills all queues, its own control connection sometimes does not survive.
        print("  once more, since %s" % error, flush=True)
        return _iperf_once(one, other, seconds, *options)


def _iperf_once(one: Node, other: Node, seconds: int, *options: str) -> dict[str, t.Any]:
    server = subprocess.Popen(
        other.command(["iperf3", "-s", "-1", "--forceflush"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with server:
        try:
            assert server.stdout
            if not any("listening" in line for line in server.stdout):
                raise LabError("iperf3's server does not start on %s" % other.name)
            client = ["iperf3", "-J", "-c", other.address, "-t", str(seconds), *options]
            done = one.exec(client, timeout=seconds + 30)
            found: dict[str, t.Any] = json.loads(done.stdout or "{}")
            if done.returncode != 0 or "error" in found:
                raise LabError("%s: %s" % (" ".join(client), found.get("error", done.stderr)))
            return t.cast("dict[str, t.Any]", found["end"])
        except subprocess.TimeoutExpired:
            raise LabError("iperf3 from %s does not end" % one.name) from None
        finally:
            server.kill()


def _ping(one: Node, address: str, seconds: int) -> subprocess.Popen[str]:
    argv = ["ping", "-n", "-i", "0.1", "-w", str(seconds), address]
    return subprocess.Popen(
        one.command(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def _round_trip(process: subprocess.Popen[str]) -> float:
    """The median of what was answered, in milliseconds."""
    came = re.findall(r"time=([\d.]+) ms", process.communicate(timeout=30)[0])
    if not came:
        raise LabError("no ping is answered")
    return median([float(each) for each in came])


# --- what it is compared with ---------------------------------------------------------------------


def _ratios(part: Part, found: dict[str, dict[str, float]]) -> None:
    """Targets are for flannel's proxy: the one of this run, and the one that they were set by."""
    reference = FLANNELD if FLANNELD in found else LOOP
    for name in (RELAY, VECTOR):
        for what in (TCP, TCP4, UDP, IDLE):
            ours, theirs = found[name][what], found[reference][what]
            label = "%s: %s, to that of %s" % (TITLES[name], _quantity(what), TITLES[reference])
            if reference == FLANNELD:
                _judge(part, name, what, label, ours / theirs)
            else:
                part.show(label, times(ours / theirs))
            if what in PROXY:
                label = "… to the %g of the target" % PROXY[what]
                _judge(part, name, what, label, ours / PROXY[what])


def _judge(part: Part, name: str, what: str, label: str, ratio: float) -> None:
    if what == IDLE:
        part.hold(label, ratio, 1.0, times)
    else:
        part.reach(label, ratio, PACKETS if what == UDP else FASTER[name], times)


def _quantity(what: str) -> str:
    """A column's name without its unit."""
    return HEADS[what].rpartition(",")[0]


# --- what is written ------------------------------------------------------------------------------


def _rows(found: Figures) -> list[list[str]]:
    """Medians, and of the streams and packets a share of what the underlay carries."""
    raw = found[RAW]
    rows = []
    for name, figures in found.items():
        row = [TITLES[name]]
        for what in HEADS:
            values = figures.get(what)
            text = FORMS[what] % median(values) if values else ""
            if values and what in (TCP, TCP4, UDP) and name != RAW:
                text += " (%.0f %%)" % (100 * median(values) / median(raw[what]))
            row.append(text)
        rows.append(row)
    return rows


def _spread(found: Figures) -> str:
    """How far rounds of one stream are apart."""
    each = ["%s %.2f to %.2f" % (TITLES[n], min(f[TCP]), max(f[TCP])) for n, f in found.items()]
    return "One stream, the slowest to the fastest round: %s." % "; ".join(each)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench.relay", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round; the page stays as it is"
    )
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("The benchmarks build network namespaces: run them as root", file=sys.stderr)
        return 1
    start, loads = time.monotonic(), [os.getloadavg()[0]]
    part, found = measure("bench-relay", given.quick)
    loads.append(os.getloadavg()[0])
    rows = _rows(found)
    for row in [["", *HEADS.values()], *rows]:
        print("  %-36s" % row[0], *("%20s" % text for text in row[1:]))
    print("  %s" % _spread(found))
    report.show(part, time.monotonic() - start, loads)
    if not given.quick:
        text = [
            report.measured([report.machine()], [time.strftime("%Y-%m-%d")]),
            *report.table(["carried by", *HEADS.values()], rows),
            "\nIn brackets: of what the underlay carries. %s\n" % _spread(found),
            *report.judged(part.rows),
            report.loaded(report.load(loads)),
        ]
        report.fill(BEGIN, END, "\n".join(text))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as exc:
        sys.exit("error: %s" % exc)
    except KeyboardInterrupt:
        sys.exit(130)
