# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A listing, put together from its pages. Private to client.py.

Whoever lists also acts on keys that are missing. So a listing is whole, or it is an error: as many
keys as etcd said at first, each after the one before, all below the prefix, all of one cluster.
"""

from __future__ import annotations

from .errors import EtcdBadAnswer
from .values import KeyValue, Range, encode_raw

# Bytes of keys and values. Ten thousand leases have some MiB.
MAX_LISTING = 256 << 20


class Pages:
    """A listing: add pages until it is ``whole``."""

    def __init__(self, prefix: str, limit: int) -> None:
        self.kvs: list[KeyValue] = []
        self.whole = False
        self.count = 0
        self.revision = 0
        self.cluster = 0
        self._prefix = prefix
        self._start = encode_raw(prefix)
        self._limit = limit
        self._last = b""
        self._size = 0

    @property
    def last(self) -> str:
        """The last key so far."""
        return self.kvs[-1].key if self.kvs else self._prefix

    def add(self, page: Range) -> None:
        """Raises EtcdBadAnswer for what cannot be the next page."""
        if not self.kvs:
            # The first page's count is of all keys; the later ones count what is left.
            self.count, self.revision, self.cluster = page.count, page.revision, page.cluster
        elif page.cluster != self.cluster:
            raise EtcdBadAnswer(
                "the endpoints belong to different etcd clusters (%x and %x); give those of one"
                % (self.cluster, page.cluster)
            )
        left = self.count - len(self.kvs)
        if len(page.kvs) != min(left, self._limit):
            raise self._not_etcds("%d keys, where %d are left" % (len(page.kvs), left))
        for entry in page.kvs:
            key = encode_raw(entry.key)
            if not key.startswith(self._start) or key <= self._last:
                raise self._not_etcds("a key that is not the next: %r" % entry.key[:200])
            self._last = key
            self._size += len(key) + len(entry.value)
        if self._size > MAX_LISTING:
            raise EtcdBadAnswer(
                "etcd holds more than %d MiB below %s; remove what does not belong there"
                % (MAX_LISTING >> 20, self._prefix)
            )
        self.kvs += page.kvs
        self.whole = len(self.kvs) >= self.count

    @staticmethod
    def _not_etcds(why: str) -> EtcdBadAnswer:
        return EtcdBadAnswer("this is not etcd: a page of a list has %s" % why)
