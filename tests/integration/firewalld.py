# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A firewalld of its own on a host of the lab, with a message bus of its own."""

from __future__ import annotations

import contextlib
import subprocess
import typing as t

from tests.lab import Host
from tests.lab.waiting import wait

_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="root"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def running(host: Host) -> t.Iterator[None]:
    """firewalld runs meanwhile, beginning with the configuration in the host's /etc."""
    (host.run / "dbus").mkdir(exist_ok=True)
    (host.run / "dbus/bus.conf").write_text(_BUS, encoding="utf-8")
    with contextlib.ExitStack() as stack:

        def start(*argv: str) -> None:
            program = subprocess.Popen(
                host.command(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            stack.callback(program.wait)
            stack.callback(program.terminate)

        output = stack.enter_context((host.run / "firewalld.log").open("w"))
        start("dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile")
        wait((host.run / "dbus/system_bus_socket").exists, "the message bus")
        start("/usr/sbin/firewalld", "--nofork", "--nopid")
        wait(lambda: host.exec(["firewall-cmd", "--state"]).returncode == 0, "firewalld")
        yield


def tell(host: Host, *words: str) -> str:
    return host.exec(["firewall-cmd", *words], check=True).stdout
