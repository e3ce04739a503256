# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``flatnet-relay``: carries a host's packets to its peers in flannel's udp format.

    flatnet-relay run      the service
    flatnet-relay status   what it carries, for whom, and what it drops
    flatnet-relay reload   have it read its table anew

It uses only the standard library, so a host needs nothing but Python. Exit status: 0 done, 1 not
done (the reason is on standard error), 2 wrong usage.

From a packet's point of view: a pod sends a packet to 10.5.94.7. The route of the whole network
leads to the TUN device. There a *worker* reads the packet, and finds that 10.5.94.0/24 belongs to
the peer with the underlay address 192.0.2.9. It sends the packet there as the payload of a UDP
datagram, with nothing around it. The worker of that host checks three things: the datagram came
from that peer, the inner source is in that peer's subnet, and the inner destination is in its own
subnet. Then it writes the packet to its own device, and its kernel delivers it.
"""

from __future__ import annotations

import argparse
import json
import sys

from ..errors import FlatnetError
from ..host.journal import ERROR, log, version
from . import report
from .config import SETTINGS_PATH, load_settings
from .control import ask
from .ends import AlreadyTold
from .main import Relay

VERSION = version()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="flatnet-relay", description="Carries this host's packets to its peers over UDP."
    )
    parser.add_argument("--settings", default=SETTINGS_PATH, help="default: %(default)s")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="carry packets until stopped")
    shown = commands.add_parser("status", help="what the relay carries and drops")
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--prometheus", action="store_true", help="in Prometheus' text format")
    commands.add_parser("reload", help="read the table anew")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(given.settings)
        if given.command == "run":
            Relay(settings, given.settings, VERSION).run()
            return 0
        found = ask(settings.control, given.command)
    except AlreadyTold:
        return 1
    except FlatnetError as error:
        log(ERROR, str(error))
        return 1
    if given.command == "reload":
        sys.stdout.write("%(peers)d peers, revision %(revision)d\n" % found)
    elif given.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write((report.metrics if given.prometheus else report.table)(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
