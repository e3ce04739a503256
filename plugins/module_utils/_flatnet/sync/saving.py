# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program leaves on disk: the state for the next boot, flannel's ``subnet.env``, and the
status."""

from __future__ import annotations

import json

from ..flannel import subnet_env
from ..host import files
from ..host.journal import ERROR, log
from ..overlay.needs import Needs
from . import state
from .retention import Retention
from .settings import Settings
from .status import Status, metrics
from .view import View


class Saver:
    """Writes only what has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._saved: object = None

    def save(
        self, view: View, revision: int, cluster: int, retention: Retention, needs: Needs
    ) -> None:
        """Keep what was applied. ``revision`` and ``cluster`` are etcd's."""
        config, own, table, underlay = view.config, view.own, view.table, view.location.underlay
        retained = tuple(name for name in retention.leases if name in table.leases)
        needed = (tuple(sorted(needs.etcd)), tuple(sorted(needs.within)))
        # With the tenths, so that it is written now and then for how long peers are retained.
        kept = (retained, retention.tenths, needed)
        mark = (revision, config, own, view.location, len(table.leases), kept)
        if mark == self._saved:
            return
        leases = {**table.leases, own.key_name: own}
        state.save(
            self._settings.state_file,
            state.State(
                config,
                {name: lease.to_json() for name, lease in leases.items()},
                own.key_name,
                revision,
                underlay.interface,
                underlay.address,
                retained,
                retention.left,
                {name: (each.create_revision, each.mod_revision) for name, each in leases.items()},
                view.config_revision,
                cluster,
                *needed,
            ),
        )
        self.write_subnet_env(view)
        self._saved = mark

    def write_subnet_env(self, view: View) -> None:
        """For the container runtime: see flannel/subnet_env.py."""
        mtu = view.config.backend.overlay_mtu(view.location.underlay.mtu)
        text = subnet_env.render(view.config, view.own, mtu, self._settings.ipmasq)
        files.replace_if_changed(self._settings.subnet_file, text.encode(), 0o644)


def write_status(settings: Settings, status: Status) -> None:
    """For ``flatnet-sync status``, and for the metrics collector; a failure is only logged."""
    found = status.to_dict()
    try:
        files.replace(settings.status_file, json.dumps(found).encode(), 0o644)
        if settings.metrics_file:
            files.publish(settings.metrics_file, metrics(found).encode())
    except OSError as error:
        log(ERROR, "%s cannot be written: %s" % (error.filename, error.strerror))
