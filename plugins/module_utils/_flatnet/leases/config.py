# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the network's config."""

from __future__ import annotations

from ..etcd.client import KeyValue, Op
from ..flannel.config import NetworkConfig
from .guards import unchanged
from .registry import Registry


def put(registry: Registry, config: NetworkConfig, before: KeyValue | None) -> bool:
    """Write the config; False if it is no longer as ``before``."""
    key = registry.config_key
    return registry.client.txn([unchanged(key, before)], [Op.put(key, config.to_json())]).succeeded


def delete(registry: Registry, before: KeyValue) -> bool:
    """Remove the config; False if it is no longer as ``before``."""
    key = registry.config_key
    return registry.client.txn([unchanged(key, before)], [Op.delete(key)]).succeeded
