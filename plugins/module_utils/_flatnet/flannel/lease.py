# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Subnet keys and lease values, byte for byte as flannel writes them.

Pure. Everything here reads what anybody may have written under ``<prefix>/subnets``
(``pkg/subnet`` of flannel v0.20 and later) and validates it once. Past this border addresses are
canonical strings (``10.5.94.0/24``, ``fd00:10:0:45::/64``, ``aa:bb:cc:dd:ee:ff``) and nobody
checks them again.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple

from ..addresses import canonical_number
from ..backends.known import BACKENDS
from ..backends.protocol import LeaseData
from ..errors import InvalidInput
from ..fields import dumps, fold, is_number, load_object, parse_name, show
from .config import reserved, reserved_ipv4

DEFAULT_PREFIX = "/coreos.com/network"


# 240.0.0.0, the first address that no host can have.
_CLASS_E = 0xF0000000


class InvalidLease(InvalidInput):
    """A subnet key or a lease value that no host may act upon."""


class Lease(NamedTuple):
    """One valid lease: who holds which subnet, and how this host is reached.

    - ``backend_type``: empty if flannel writes none.
    - ``data``, and ``data6`` for IPv6: what the backend says of how the host is reached.
    - ``host_id``, ``hostname``: fields of this collection, empty on leases that a flanneld wrote.
    - ``vector``: a field of this collection, the newest format of vectors that the host's relay
      takes; 0 if it takes none.
    - ``etcd_lease``: the id of the etcd lease that the key is bound to; 0 for a permanent key.
    - ``mod_revision``, ``create_revision``: the key's; 0 if it is not stored, or not known.
    """

    subnet: str
    public_ip: str
    backend_type: str = ""
    data: LeaseData | None = None
    subnet6: str | None = None
    public_ip6: str | None = None
    data6: LeaseData | None = None
    host_id: str = ""
    hostname: str = ""
    vector: int = 0
    mod_revision: int = 0
    etcd_lease: int = 0
    create_revision: int = 0

    @property
    def key_name(self) -> str:
        """The key's last part: ``10.5.94.0-24``, dual stack ``10.5.94.0-24&fd00:10:0:45::-64``."""
        name = self.subnet.replace("/", "-")
        return name + "&" + self.subnet6.replace("/", "-") if self.subnet6 else name

    @property
    def owner(self) -> str:
        """The holder, for people: name and public IP."""
        return "%s (%s)" % (self.hostname, self.public_ip) if self.hostname else self.public_ip

    def to_json(self) -> str:
        """The lease's value, fields in flannel's order; ours last, where Go ignores them."""
        out: dict[str, Any] = {"PublicIP": self.public_ip, "PublicIPv6": self.public_ip6}
        if self.backend_type:
            out["BackendType"] = self.backend_type
        if self.data:
            out["BackendData"] = self.data.to_dict()
        if self.data6:
            out["BackendV6Data"] = self.data6.to_dict()
        if self.host_id:
            out["Flatnet"] = {"HostID": self.host_id, "Hostname": self.hostname}
            if self.vector:
                out["Flatnet"]["Vector"] = self.vector
        return dumps(out)

    def same_content(self, other: Lease) -> bool:
        """Whether both are equal in everything that is written to etcd."""
        return self[:10] == other[:10]


_KEY = re.compile(r"([0-9.]{7,15})-([0-9]{1,2})(?:&([0-9a-f:]{2,39})-([0-9]{1,3}))?")
_LEASE_FIELDS = frozenset(
    ("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "Flatnet")
)


def parse_lease(
    name: str,
    value: str | bytes,
    mod_revision: int = 0,
    etcd_lease: int = 0,
    create_revision: int = 0,
) -> Lease:
    """Parse what stands under ``<prefix>/subnets/<name>``.

    Raises InvalidLease for anything that a host must not act upon: a key that does not have exactly
    flannel's form, a value that is not flannel's JSON, data that its backend cannot use.
    """
    match = _KEY.fullmatch(name)
    if not match:
        raise InvalidLease("subnet key %s is not of the form 10.5.94.0-24" % show(name))
    subnet = _subnet(match.group(1), match.group(2), 4)
    subnet6 = _subnet(match.group(3), match.group(4), 6) if match.group(3) else None
    where = "lease %s: " % name
    fields = fold(load_object(value, InvalidLease, "lease %s" % name), _LEASE_FIELDS)
    if "PublicIP" not in fields:
        raise InvalidLease(where + "PublicIP is missing")
    public_ip = parse_public_ip(where + "PublicIP", fields["PublicIP"], 4)
    public_ip6 = fields.get("PublicIPv6")
    if public_ip6 is not None:
        public_ip6 = parse_public_ip(where + "PublicIPv6", public_ip6, 6)
    kind = parse_name(where + "BackendType", fields.get("BackendType"), InvalidLease)
    data = data6 = None
    backend = BACKENDS.get(kind)
    if backend:  # else nobody here knows what its data are
        try:
            data, data6 = backend.read_lease(
                fields.get("BackendData"), fields.get("BackendV6Data"), subnet6 is not None
            )
        except InvalidInput as error:
            raise InvalidLease("%s%s" % (where, error)) from None
    own = fields.get("Flatnet", {})
    if not isinstance(own, dict):
        raise InvalidLease(where + "Flatnet must be an object, not %s" % show(own))
    host_id = parse_name(where + "Flatnet.HostID", own.get("HostID"), InvalidLease)
    hostname = parse_name(where + "Flatnet.Hostname", own.get("Hostname"), InvalidLease)
    return Lease(
        subnet=subnet,
        public_ip=public_ip,
        backend_type=kind,
        data=data,
        subnet6=subnet6,
        public_ip6=public_ip6,
        data6=data6,
        host_id=host_id,
        hostname=hostname if host_id else "",
        vector=_vector(own.get("Vector")) if host_id else 0,
        mod_revision=mod_revision,
        etcd_lease=etcd_lease,
        create_revision=create_revision,
    )


def _vector(value: Any) -> int:
    """The number of a format; 0 if there is anything else. The lease is valid all the same."""
    return value if isinstance(value, int) and is_number(value) and 0 < value < 256 else 0


def subnet_of_key(name: str) -> str | None:
    """The IPv4 subnet that a key is named after, whatever its value; None if it names no subnet."""
    match = _KEY.fullmatch(name)
    try:
        return _subnet(match.group(1), match.group(2), 4) if match else None
    except InvalidLease:
        return None


def parse_public_ip(where: str, text: Any, version: int = 4) -> str:
    """An address that a peer can be reached at; raises InvalidLease otherwise."""
    number = canonical_number(text) if version == 4 else None
    if number and number < _CLASS_E and not reserved_ipv4(number, number):
        return str(text)
    # Everything else, to find out what is wrong with it.
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise InvalidLease("%s %s is not an IPv%d address" % (where, show(text), version))
    if (
        getattr(address, "ipv4_mapped", None)
        or address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or (version == 4 and int(address) >= _CLASS_E)
    ):
        raise InvalidLease("%s %s cannot be the address of a host" % (where, address))
    return str(address)


def _subnet(address: str, length: str, version: int) -> str:
    first = canonical_number(address) if version == 4 else None
    if first is not None and length.isdecimal() and str(int(length)) == length:
        size = 1 << max(32 - int(length), 0)
        if int(length) <= 32 and not first % size and not reserved_ipv4(first, first + size - 1):
            return address + "/" + length
    # Everything else, to find out what is wrong with it.
    try:
        network = ipaddress.ip_network("%s/%s" % (address, length))
    except ValueError:
        network = None
    # The round trip refuses host bits, leading zeros and any second spelling of one subnet.
    if network is None or network.version != version or str(network) != address + "/" + length:
        raise InvalidLease("subnet key %s-%s is not a subnet" % (address, length))
    if reserved(network):
        raise InvalidLease("subnet %s can never belong to a host" % network)
    return str(network)


def gateway(subnet: str) -> str:
    """The host's own address in its subnet with the subnet's length: ``10.5.94.1/24``."""
    network = ipaddress.ip_network(subnet)
    return "%s/%d" % (network.network_address + 1, network.prefixlen)
