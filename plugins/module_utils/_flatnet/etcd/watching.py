# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that also watches, for the program that follows etcd. Modules do without."""

from __future__ import annotations

import time
from typing import Any

from .client import EtcdClient, request
from .cluster import Cluster, parse
from .connection import Connection, Request
from .errors import Refusal, refused
from .pulse import Pulse
from .values import encode, prefix_range
from .watch import Watch

__all__ = ["Pulse", "Watch", "WatchingClient"]


class _Cluster(Cluster):
    def watch(self, request: Request) -> Watch:
        def ask(connection: Connection) -> Watch:
            own = Connection(connection.endpoint, self._context)
            watch = Watch(own, self._user)
            try:
                return self._authorized(
                    connection, request, lambda token: watch.begin(request, token, self._deadline)
                )
            except BaseException:
                own.close()
                raise

        return self._anywhere(ask, write=False)

    def pulse(self, url: str, request: Request) -> Pulse:
        """Questions to the member at this endpoint, over a connection of their own."""
        endpoint = next(each.endpoint for each in self._connections if each.endpoint.url == url)

        def authorize(connection: Connection, refusal: Refusal | None, last: bool) -> str:
            with self._lock:
                if refusal is not None:
                    if last or not refusal.about_token or not self._user:
                        raise refused(refusal, url, self._user, write=False)
                    self._token = None
                self._deadline = time.monotonic() + self._timeout
                return self._valid_token(connection)

        connection = Connection(endpoint, self._context)
        return Pulse(connection, request, self._timeout, authorize, parse)


class WatchingClient(EtcdClient):
    """As EtcdClient, with watches."""

    _members = _Cluster
    _cluster: _Cluster

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = True) -> Watch:
        """Changes of keys with the prefix from start_revision on; 0: from now on.

        For a member that lags behind, "now" is an older revision than for others. Returns when etcd
        has confirmed the watch, which has a connection of its own. progress: etcd sends a response
        without events now and then, so that a quiet watch can go on from a recent revision.
        """
        create: dict[str, Any] = prefix_range(prefix)
        create.update(start_revision=str(start_revision), progress_notify=progress, fragment=True)
        return self._cluster.watch(request("/v3/watch", {"create_request": create}))

    def pulse(self, endpoint: str, key: str) -> Pulse:
        """For asking one endpoint for etcd's revision: see Pulse. The user must be allowed to read
        ``key``, which need not exist."""
        body = {"key": encode(key), "count_only": True}
        return self._cluster.pulse(endpoint, request("/v3/kv/range", body))
