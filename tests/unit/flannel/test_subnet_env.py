# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""subnet.env: flannel's, byte for byte."""

from __future__ import annotations

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel import (
    subnet_env,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    parse_lease,
)

from tests.unit.flannel.test_lease import DUAL, DUAL_KEY
from tests.unit.given import CONFIG, fleet


def test_subnet_env_is_flannels_byte_for_byte() -> None:
    assert subnet_env.render(parse_config(CONFIG), fleet()[0], 1450, False) == (
        "FLANNEL_NETWORK=100.96.0.0/16\n"
        "FLANNEL_SUBNET=100.96.45.1/24\n"
        "FLANNEL_MTU=1450\n"
        "FLANNEL_IPMASQ=false\n"
    )


def test_subnet_env_of_a_dual_stack_host_names_both_families() -> None:
    config = parse_config(
        '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10::/48",'
        '"Backend":{"Type":"vxlan"}}'
    )
    assert subnet_env.render(config, parse_lease(DUAL_KEY, DUAL), 1430, True) == (
        "FLANNEL_NETWORK=10.5.0.0/16\n"
        "FLANNEL_SUBNET=10.5.94.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd00:10::/48\n"
        "FLANNEL_IPV6_SUBNET=fd00:10:0:45::1/64\n"
        "FLANNEL_MTU=1430\n"
        "FLANNEL_IPMASQ=true\n"
    )
