# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An etcd of the calls that leases need, in memory: keys with revisions, transactions, etcd leases.

It answers at once and always alike, so that tests can try every order of two acquisitions, and lose
any answer. The whole runs in tests/integration/leases have a real etcd, with real clients.
"""

from __future__ import annotations

import operator
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    EtcdClient,
    EtcdLeaseNotFound,
    EtcdTimeout,
    KeyValue,
    Op,
    Range,
    TxnResult,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Lease as EtcdLease,
)

_FIELDS = {"CREATE": "create_revision", "MOD": "mod_revision", "VERSION": "version"}
_RESULTS = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
_NOTHING = KeyValue("", b"", 0, 0, 0, 0)


class FakeEtcd:
    """One etcd, for any number of clients."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[str, KeyValue] = {}
        self.etcd_leases: dict[int, int] = {}
        # The keys that each writing transaction changed.
        self.history: list[tuple[str, ...]] = []
        # What happens before each of the next writing transactions, such as another writer's.
        self.before_write: list[t.Callable[[], object]] = []
        # How many of the next writing transactions are carried out without an answer.
        self.lost_answers = 0
        self._granted = 0

    def client(self) -> EtcdClient:
        """This, where a client is expected."""
        return t.cast(EtcdClient, self)

    # As EtcdClient has them.

    def get(self, key: str) -> Range:
        kvs = (self.keys[key],) if key in self.keys else ()
        return Range(self.revision, kvs, len(kvs))

    def range_prefix(self, prefix: str, revision: int | None = None) -> Range:
        assert revision in (None, self.revision), "a past revision is not kept"
        kvs = tuple(self.keys[key] for key in sorted(self.keys) if key.startswith(prefix))
        return Range(self.revision, kvs, len(kvs))

    def put(self, key: str, value: str) -> int:
        return self.txn([], [Op.put(key, value)]).revision

    def delete(self, key: str) -> int:
        return self.txn([], [Op.delete(key)]).revision

    def txn(self, compares: t.Sequence[Compare], success: t.Sequence[Op]) -> TxnResult:
        writes = any(each.kind != "range" for each in success)
        if writes and self.before_write:
            self.before_write.pop(0)()
        if not all(map(self._holds, compares)):
            return TxnResult(False, self.revision, ())
        if writes:
            self.revision += 1
        changed: list[str] = []
        answers = tuple(self._carry_out(each, changed) for each in success)
        if writes and not changed:
            self.revision -= 1  # what was to be deleted was not there
        if writes:
            self.history.append(tuple(changed))
            if self.lost_answers:
                self.lost_answers -= 1
                raise EtcdTimeout("no answer in time.", maybe_applied=True)
        return TxnResult(True, self.revision, answers)

    def lease_grant(self, ttl: int) -> EtcdLease:
        self._granted += 1
        self.etcd_leases[self._granted] = ttl
        return EtcdLease(self._granted, ttl, ttl)

    def lease_keepalive(self, lease: int) -> int:
        return self.lease_time_to_live(lease).ttl

    def lease_time_to_live(self, lease: int) -> EtcdLease:
        if lease not in self.etcd_leases:
            raise EtcdLeaseNotFound("the etcd lease %x has expired or was revoked" % lease)
        return EtcdLease(lease, self.etcd_leases[lease], self.etcd_leases[lease])

    def lease_revoke(self, lease: int) -> bool:
        """Also what happens when its time is over."""
        gone = [key for key, entry in self.keys.items() if entry.lease == lease]
        if gone:
            self.revision += 1
        for key in gone:
            del self.keys[key]
        return self.etcd_leases.pop(lease, None) is not None

    # Inside.

    def _holds(self, compare: Compare) -> bool:
        entry = self.keys.get(compare.key, _NOTHING)
        if compare.target == "VALUE":
            # etcd has no value to compare where there is no key.
            return entry is not _NOTHING and entry.value == compare.operand
        found = getattr(entry, _FIELDS[compare.target])
        return bool(_RESULTS[compare.result](found, compare.operand))

    def _carry_out(self, op: Op, changed: list[str]) -> Range | int:
        before = self.keys.get(op.key)
        if op.kind == "range":
            return self.get(op.key)
        if op.kind == "delete_range":
            if before:
                changed.append(op.key)
                del self.keys[op.key]
            return int(before is not None)
        if op.lease and op.lease not in self.etcd_leases:
            raise EtcdLeaseNotFound("the etcd lease %x has expired or was revoked" % op.lease)
        created = before.create_revision if before else self.revision
        version = before.version + 1 if before else 1
        changed.append(op.key)
        self.keys[op.key] = KeyValue(op.key, op.value, created, self.revision, version, op.lease)
        return 1
