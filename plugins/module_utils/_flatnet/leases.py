# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease registry: flannel's key space in etcd, read whole and written with care.

Keys, below the prefix:

``config``
    The network's config.
``subnets/<subnet>``
    The leases. Nothing else is ever written below ``subnets``: flanneld peers act on every key.
``flatnet/hosts/<host id>``, ``flatnet/addresses/<public ip>``
    Guards, holding the name of the lease's key. They decide nothing and are never read to find a
    lease. Every acquisition puts them in the transaction that puts its lease, on the condition that
    they are as they were before the leases were listed. So of two acquisitions for one host, or
    for two hosts with one address, made at the same time, the second fails, lists again, and then
    sees the first one's lease. Without them each could take a different free subnet.

One lease is written per transaction, since flanneld v0.20 reads only the first event of a watch
response.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple

from .errors import FlatnetError
from .etcd.client import (
    Compare,
    EtcdClient,
    EtcdError,
    EtcdLeaseNotFound,
    KeyValue,
    Op,
    Pulse,
    Watch,
)
from .fields import show
from .flannel.assignment import Decision, Host, Wish, decide
from .flannel.config import InvalidConfig, NetworkConfig, parse_config
from .flannel.lease import DEFAULT_PREFIX, InvalidLease, Lease, parse_lease, subnet_of_key

# After a lost race: first wait, doubled up to the longest, each with full jitter; in seconds.
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 1.0
_GIVE_UP = 60.0


class NoNetwork(FlatnetError):
    """There is no usable network config under the prefix."""


class LeaseContended(FlatnetError):
    """Other writers were faster for a whole minute."""


class Garbage(NamedTuple):
    """A key below ``subnets`` that is not a valid lease; ``subnet`` is what it would be of."""

    key: str
    reason: str
    subnet: str | None
    mod_revision: int = 0

    def __str__(self) -> str:
        return "key %s is not used: %s" % (show(self.key), self.reason)


class Snapshot(NamedTuple):
    """All leases at one revision; ``cluster`` is the id of the etcd cluster, 0 where unknown."""

    revision: int
    leases: tuple[Lease, ...]
    garbage: tuple[Garbage, ...]
    cluster: int = 0
    # The key names below ``subnets``, also of garbage, with their mod revisions.
    keys: Mapping[str, int] = MappingProxyType({})

    @property
    def taken(self) -> tuple[str, ...]:
        """The subnets of all keys, also of those with a garbage value."""
        return tuple(lease.subnet for lease in self.leases) + self.unreadable

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The subnets of keys whose value nobody can read: somebody seems to hold them."""
        return tuple(each.subnet for each in self.garbage if each.subnet)


class Listing(NamedTuple):
    """All there is to know of the network at one revision. ``config_revision`` is that of the
    config's last change."""

    config: NetworkConfig
    snapshot: Snapshot
    config_revision: int = 0


class Found(NamedTuple):
    """The same where the config may be missing or broken: then it is None, and ``problem`` says
    why."""

    config: NetworkConfig | None
    snapshot: Snapshot
    config_revision: int = 0
    problem: str = ""


class Planned(NamedTuple):
    """What earlier steps of a run in check mode would have written."""

    config: NetworkConfig | None = None
    leases: tuple[Lease, ...] = ()

    def added_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as it would be: a planned lease replaces its host's present one."""
        if not self.leases:
            return snapshot
        keys = {lease.key_name for lease in self.leases}
        hosts = {lease.host_id for lease in self.leases if lease.host_id}
        kept = [
            lease
            for lease in snapshot.leases
            if lease.key_name not in keys and lease.host_id not in hosts
        ]
        return snapshot._replace(leases=(*kept, *self.leases))


# Looks at what is about to be done, and raises a FlatnetError if this host is in the way of it.
Approve = Callable[[Decision, NetworkConfig], None]


class Outcome(NamedTuple):
    """What acquire did: the decision as carried out, the config it was based on, and how many
    transactions it took."""

    decision: Decision
    config: NetworkConfig
    changed: bool
    transactions: int


class Registry:
    """Leases under one prefix of one etcd."""

    def __init__(self, client: EtcdClient, prefix: str = DEFAULT_PREFIX) -> None:
        if not prefix.startswith("/") or prefix.endswith("/") or "//" in prefix:
            raise InvalidConfig(
                "etcd_prefix: %r must begin with a slash and not end with one, like %s"
                % (prefix, DEFAULT_PREFIX)
            )
        self._client = client
        self._config_key = prefix + "/config"
        self._subnets = prefix + "/subnets/"
        self._guards = prefix + "/flatnet/"
        self.prefix = prefix

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses of etcd that are connected to now."""
        return self._client.reached

    def disconnect(self) -> None:
        """Have the next call connect anew: connections do not survive a change of our address."""
        self._client.close()

    # --- read -----------------------------------------------------------------------------------

    def config_entry(self) -> KeyValue | None:
        """The config's key as it is, unparsed; None if there is none."""
        kvs = self._client.get(self._config_key).kvs
        return kvs[0] if kvs else None

    def config(self) -> NetworkConfig:
        """The network's config; NoNetwork if missing or broken."""
        return self._parse_config(self.config_entry())

    def _parse_config(self, entry: KeyValue | None) -> NetworkConfig:
        if entry is None:
            raise NoNetwork(
                "etcd has no network config at %s; write one with flannel_network"
                % self._config_key
            )
        try:
            return parse_config(entry.value)
        except InvalidConfig as error:
            raise NoNetwork(
                "the network config at %s is not usable: %s" % (self._config_key, error)
            ) from None

    def find(self) -> Found:
        """The config, if there is one, and every lease, as they were at one revision."""
        answer = self._client.get(self._config_key)
        entry = answer.kvs[0] if answer.kvs else None
        config, problem = None, ""
        try:
            config = self._parse_config(entry)
        except NoNetwork as error:
            problem = str(error)
        changed = entry.mod_revision if entry else 0
        return Found(config, self.snapshot(answer.revision), changed, problem)

    def listing(self, planned: NetworkConfig | None = None) -> Listing:
        """The same; NoNetwork if the config is missing or broken. In place of it ``planned``, as if
        it had just been written."""
        found = self.find()
        if planned and planned != found.config:
            return Listing(planned, found.snapshot, found.snapshot.revision + 1)
        if found.config is None:
            raise NoNetwork(found.problem)
        return Listing(found.config, found.snapshot, found.config_revision)

    def watch(self, revision: int) -> Watch:
        """Everything that is written below the prefix after ``revision``."""
        return self._client.watch(self.prefix + "/", revision + 1)

    def pulse(self, endpoint: str) -> Pulse:
        """Questions to the endpoint of a watch whether it is still there: see etcd.Pulse."""
        return self._client.pulse(endpoint, self._config_key)

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Have this called every now and then while etcd is waited for."""
        self._client.while_waiting(call)

    def avoid(self, endpoint: str) -> None:
        """Have the next calls and watches go to other endpoints first."""
        self._client.avoid(endpoint)

    def is_config(self, key: str) -> bool:
        """Whether a key is the network's config."""
        return key == self._config_key

    def lease_name(self, key: str) -> str | None:
        """The key name of a lease; None if the key is not below ``subnets``."""
        return key[len(self._subnets) :] if key.startswith(self._subnets) else None

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """Every lease, at one revision, by default the present one."""
        found = self._client.range_prefix(self._subnets, revision=revision)
        leases: list[Lease] = []
        garbage: list[Garbage] = []
        for entry in found.kvs:
            name = entry.key[len(self._subnets) :]
            try:
                lease = parse_lease(
                    name, entry.value, entry.mod_revision, entry.lease, entry.create_revision
                )
            except InvalidLease as error:
                garbage.append(
                    Garbage(entry.key, str(error), subnet_of_key(name), entry.mod_revision)
                )
            else:
                leases.append(lease)
        start = len(self._subnets)
        keys = {entry.key[start:]: entry.mod_revision for entry in found.kvs}
        return Snapshot(found.revision, tuple(leases), tuple(garbage), found.cluster, keys)

    # --- write ----------------------------------------------------------------------------------

    def put_config(self, config: NetworkConfig, before: KeyValue | None) -> bool:
        """Write the config; False if it is no longer as ``before``."""
        compare = Compare.mod_revision(self._config_key, before.mod_revision if before else 0)
        return self._client.txn([compare], [Op.put(self._config_key, config.to_json())]).succeeded

    def delete_config(self, before: KeyValue) -> bool:
        """Remove the config; False if it is no longer as ``before``."""
        compare = Compare.mod_revision(self._config_key, before.mod_revision)
        return self._client.txn([compare], [Op.delete(self._config_key)]).succeeded

    def preview(
        self, host: Host, wish: Wish, ttl: int, planned: Planned, approve: Approve | None = None
    ) -> Outcome:
        """What acquire would do now, if ``planned`` had been written before; writes nothing."""
        config = planned.config or self.config()
        snapshot = planned.added_to(self.snapshot())
        decision = decide(config, snapshot.leases, snapshot.taken, host, wish)
        if approve:
            approve(decision, config)
        changed = bool(decision.surplus) or not self._is_held(decision, ttl)
        return Outcome(decision, config, changed, 0)

    def acquire(
        self,
        host: Host,
        wish: Wish,
        ttl: int = 0,
        approve: Approve | None = None,
        under: NetworkConfig | None = None,
    ) -> Outcome:
        """Make ``host`` hold exactly one lease, whatever others do at the same time.

        ``ttl`` in seconds hangs the key on an etcd lease, which this renews if it is there; 0
        makes the key permanent. ``approve`` is asked before a decision is carried out, and raises
        if it must not be. With ``under`` the lease is one of that config, whatever etcd's is: of
        the one that the host goes by. Raises what assignment.decide does, LeaseContended, or an
        EtcdError.
        """
        transactions, changed = 0, False
        before: Lease | None = None
        for dummy in _tries("a lease for %s" % (host,)):
            guards, entry = self._read(host)
            config = under or self._parse_config(entry)
            snapshot = self.snapshot()
            decision = decide(config, snapshot.leases, snapshot.taken, host, wish)
            if approve:
                approve(decision, config)
            now = decision.before
            try:
                if not self._is_held(decision, ttl):
                    transactions += 1
                    now = self._write(decision, guards, ttl)
                    if now is None:
                        continue
                    before = before if changed else decision.before
                    changed = True
                elif ttl and now:
                    self._client.lease_keepalive(now.etcd_lease)
                # What is removed here was replaced by ``now``: if that is gone, it stays.
                if now and all(self._remove(lease, now) for lease in decision.obsolete):
                    before = before if changed else now
                    changed = changed or bool(decision.obsolete)
                    done = decision._replace(before=before, after=now)
                    return Outcome(done, config, changed, transactions)
            except EtcdLeaseNotFound:
                pass  # it ran out just now
            except EtcdError as error:
                if not error.maybe_applied:
                    raise
                # The next listing tells. If it was applied, it was we who changed it.
                before = before if changed else decision.before
                changed = True
        raise AssertionError("unreachable")

    def keep_alive(self, lease: Lease) -> bool:
        """Renew a lease that has a TTL; False if it ran out."""
        if lease.etcd_lease:
            try:
                self._client.lease_keepalive(lease.etcd_lease)
            except EtcdLeaseNotFound:
                return False
        return True

    def held_by(self, host_id: str) -> tuple[Lease, ...]:
        """The leases that record this identity: one, or none."""
        return tuple(each for each in self.snapshot().leases if each.host_id == host_id)

    def release(self, host_id: str) -> tuple[Lease, ...]:
        """Remove what ``held_by`` names, with its guards; returns what was removed.

        A lease without identity is a flanneld's own affair and stays.
        """
        removed: dict[str, Lease] = {}
        for dummy in _tries("the lease of host id %s" % host_id):
            leases = self.held_by(host_id)
            removed.update((lease.key_name, lease) for lease in leases)
            try:
                if all(self._remove(lease) for lease in leases):
                    return tuple(removed.values())
            except EtcdError as error:
                if not error.maybe_applied:
                    raise
        raise AssertionError("unreachable")

    # --- transactions ---------------------------------------------------------------------------

    def _guard_keys(self, host_id: str, public_ip: str) -> tuple[str, str]:
        return self._guards + "hosts/" + host_id, self._guards + "addresses/" + public_ip

    def _read(self, host: Host) -> tuple[list[Compare], KeyValue | None]:
        """The config, and conditions that nobody changes it, or acquires for this host, from here
        on."""
        keys = (self._config_key, *self._guard_keys(host.host_id, host.public_ip))
        answer = self._client.txn([], [Op.get(key) for key in keys])
        found = [each.kvs[0] if each.kvs else None for each in answer.ranges]
        guards = [
            Compare.mod_revision(key, entry.mod_revision if entry else 0)
            for key, entry in zip(keys, found)
        ]
        return guards, found[0]

    def _is_held(self, decision: Decision, ttl: int) -> bool:
        """Whether the lease stands in etcd as decided, permanent or with this TTL."""
        before = decision.before
        if before is None or not before.same_content(decision.after):
            return False
        if not ttl or not before.etcd_lease:
            return ttl == before.etcd_lease
        try:
            return self._client.lease_time_to_live(before.etcd_lease).granted_ttl == ttl
        except EtcdLeaseNotFound:
            return False

    def _write(self, decision: Decision, guards: list[Compare], ttl: int) -> Lease | None:
        after, before = decision.after, decision.before
        key = self._subnets + after.key_name
        known = before.mod_revision if before and not decision.moved else 0
        compares = guards + [Compare.mod_revision(key, known)]
        etcd_lease = self._client.lease_grant(ttl).id if ttl else 0
        operations = [Op.put(key, after.to_json(), etcd_lease)]
        operations += [
            Op.put(guard, after.key_name, etcd_lease)
            for guard in self._guard_keys(after.host_id, after.public_ip)
        ]
        answer = self._client.txn(compares, operations)
        if not answer.succeeded:
            if etcd_lease:
                self._client.lease_revoke(etcd_lease)
            return None
        if before and not decision.moved:
            self._clear(before, after)
        return after._replace(
            mod_revision=answer.revision,
            etcd_lease=etcd_lease,
            create_revision=before.create_revision if before and known else answer.revision,
        )

    def _remove(self, lease: Lease, kept: Lease | None = None) -> bool:
        """Remove a lease if it is unchanged, with what only belongs to it and not to ``kept``."""
        key = self._subnets + lease.key_name
        operations = [Op.delete(key)]
        if kept is None and lease.host_id:
            names = self._guard_keys(lease.host_id, lease.public_ip)
            operations += [Op.delete(name) for name in names]
        compares = [Compare.mod_revision(key, lease.mod_revision)]
        if kept:
            # So that of two who disagree which one to keep, not each removes the other's: a host
            # has a lease at every moment.
            name = self._subnets + kept.key_name
            compares.append(Compare.mod_revision(name, kept.mod_revision))
        done = self._client.txn(compares, operations).succeeded
        if done:
            self._clear(lease, kept)
        return done

    def _clear(self, gone: Lease, kept: Lease | None) -> None:
        """Clear away what a lease that is gone has left and ``kept`` does not need.

        Nothing of a flanneld's: it has no guards, and its etcd lease runs out by itself.
        """
        if not gone.host_id:
            return
        if kept:
            guards = set(self._guard_keys(gone.host_id, gone.public_ip))
            for guard in guards - set(self._guard_keys(kept.host_id, kept.public_ip)):
                # Unless another host has taken it up meanwhile.
                self._client.txn([Compare.value(guard, gone.key_name)], [Op.delete(guard)])
        if gone.etcd_lease:
            # We granted it, for this key alone.
            self._client.lease_revoke(gone.etcd_lease)


def _tries(what: str) -> Iterator[None]:
    """Rounds of a race, with a growing, jittered pause after each; LeaseContended at last."""
    start, wait = time.monotonic(), _FIRST_WAIT
    while True:
        yield
        if time.monotonic() - start > _GIVE_UP:
            raise LeaseContended(
                "%s: other writers changed it first, again and again for %d seconds; is another "
                "controller running against the same hosts?" % (what, _GIVE_UP)
            )
        time.sleep(random.uniform(0, wait))
        wait = min(wait * 2, _LONGEST_WAIT)
