# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which leases this host may use, by a task's options and what the host says."""

from __future__ import annotations

from ..flannel.lease import Lease
from ..kernel.reader import KernelReader
from ..leases.snapshot import Listing
from ..overlay.location import HostLocation
from ..overlay.needs import Needs, controllers
from ..overlay.rules import Rules
from .module import AnsibleModule


def rules(
    module: AnsibleModule,
    kernel: KernelReader,
    listing: Listing,
    own: Lease,
    location: HostLocation,
) -> Rules:
    """Which leases this host may use, from ETCD_ARGUMENTS and the kernel."""
    needs = Needs(module.params["etcd_endpoints"], controllers(), kernel.overlaid)
    needs.resolve(module.params["etcd_timeout"])
    needed = needs.look(location.addresses, kernel.routes(foreign=True))
    return Rules(
        listing.config,
        own,
        location.addresses,
        config_revision=listing.config_revision,
        needed=needed,
    )
