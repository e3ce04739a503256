# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's options: endpoints, TLS files, user. Private to client.py.

All of it is checked before anything is sent, and each error names the option,
as the modules call it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import EtcdBadCertificate, EtcdInvalidOption


class Endpoint(NamedTuple):
    """Where one etcd member listens; url is how the user wrote it, for messages."""

    url: str
    tls: bool
    host: str
    port: int


def parse_endpoint(url: object) -> Endpoint:
    """http://host:port or https://host:port, and nothing else."""

    def wrong(why: str, shown: object = url) -> EtcdInvalidOption:
        return EtcdInvalidOption(
            "etcd_endpoints",
            f"etcd_endpoints: {shown!r} {why}; write http://HOST:PORT or https://HOST:PORT, "
            "for example http://192.0.2.1:2379",
        )

    if not isinstance(url, str):
        raise wrong("is not text")
    if "@" in url:
        # Not shown, since there is a password in it.
        raise wrong("has a user or password in it; use etcd_username and etcd_password", "…")
    if any(c.isspace() or not c.isprintable() for c in url):
        raise wrong("has a blank or a control character in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(f"is not a URL ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise wrong("does not begin with http:// or https://")
    if not host:
        raise wrong("has no host")
    if not port:
        raise wrong("has no port from 1 to 65535")
    if parts.path not in ("", "/") or parts.query or parts.fragment or url[-1] in "?#":
        raise wrong("has something after the port")
    try:
        if ":" not in host:
            host.encode("idna")
    except UnicodeError:
        raise wrong("has a host that cannot be a name") from None
    return Endpoint(url.rstrip("/"), parts.scheme == "https", host, port)


def parse_endpoints(urls: object) -> list[Endpoint]:
    """At least one; the same one twice counts once."""
    if not isinstance(urls, (list, tuple)) or not urls:
        raise EtcdInvalidOption("etcd_endpoints", "etcd_endpoints: give a list of at least one URL")
    return list(dict.fromkeys(parse_endpoint(url) for url in urls))


def check_timeout(timeout: object) -> float:
    number = timeout if isinstance(timeout, (int, float)) else math.nan
    if isinstance(timeout, bool) or not 0 < number < 86400:
        raise EtcdInvalidOption(
            "etcd_timeout", f"etcd_timeout: {timeout!r} is not a number of seconds above 0"
        )
    return float(number)


def check_user(username: str | None, password: str | None) -> None:
    if password and not username:
        raise EtcdInvalidOption(
            "etcd_username", "etcd_password is given without etcd_username; give both"
        )
    if username and not password:
        raise EtcdInvalidOption(
            "etcd_password", "etcd_username is given without etcd_password; give both"
        )


def tls_context(
    endpoints: Sequence[Endpoint],
    ca_file: str | None,
    cert_file: str | None,
    key_file: str | None,
) -> ssl.SSLContext | None:
    """What https endpoints are verified with; None if there are none.

    Without ca_file the system's certificates count. Files are read now, once.
    """
    files = {"etcd_ca_file": ca_file, "etcd_cert_file": cert_file, "etcd_key_file": key_file}
    for endpoint in endpoints:
        given = [option for option, path in files.items() if path]
        if given and not endpoint.tls:
            raise EtcdInvalidOption(
                given[0],
                f"{given[0]} is given, but endpoint {endpoint.url} is not https; "
                f"use https, or leave {given[0]} out",
            )
    for option, other in (("etcd_cert_file", "etcd_key_file"), ("etcd_key_file", "etcd_cert_file")):
        if files[option] and not files[other]:
            raise EtcdInvalidOption(other, f"{option} is given without {other}; give both")
    if not any(endpoint.tls for endpoint in endpoints):
        return None
    for endpoint in endpoints:
        if not endpoint.tls:
            # Whoever can hold up the others would have all that goes over it, the password as well.
            raise EtcdInvalidOption(
                "etcd_endpoints",
                f"etcd_endpoints: {endpoint.url} is not https, but others are; use one for all",
            )

    for option, path in files.items():
        if path:
            _check_readable(option, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except ssl.SSLError:
            raise EtcdBadCertificate(f"etcd_ca_file {ca_file} holds no PEM certificate") from None
    else:
        context.load_default_certs()
    if cert_file and key_file:
        _load_client_certificate(context, cert_file, key_file)
    return context


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EtcdBadCertificate(f"{option} {path} cannot be read: {why}") from None


def _load_client_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    def no_passphrase() -> str:
        # Without this OpenSSL would ask on the terminal.
        raise EtcdBadCertificate(
            f"etcd_key_file {key_file} is encrypted; it must have no passphrase"
        )

    try:
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"etcd_key_file {key_file} is not the key of etcd_cert_file {cert_file}"
        else:
            why = f"etcd_cert_file {cert_file} or etcd_key_file {key_file} is not PEM"
        raise EtcdBadCertificate(why) from None
