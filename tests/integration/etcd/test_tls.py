# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client and TLS, on a real etcd with certificates from a CA of the test's own."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)

from tests.integration.etcd_server import Certificates, EtcdServers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def _serve(directory: Path, certificates: Certificates, arguments: list[str]) -> EtcdServers:
    # etcdctl only tells when etcd is up: the client under test is what verifies.
    ctl = [
        "--insecure-skip-tls-verify",
        f"--cert={certificates.path('client.pem')}",
        f"--key={certificates.path('client.key')}",
    ]
    return EtcdServers(directory, arguments=arguments, scheme="https", ctl_arguments=ctl)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[EtcdServers]:
    """Wants client certificates."""
    arguments = certificates.server_arguments("server", client_auth=True)
    with _serve(tmp_path_factory.mktemp("tls"), certificates, arguments) as servers:
        yield servers


def _client(
    servers: EtcdServers, certificates: Certificates, name: str = "client", ca: str = "ca"
) -> WatchingClient:
    return WatchingClient(
        servers.urls,
        ca_file=certificates.path(f"{ca}.pem"),
        cert_file=certificates.path(f"{name}.pem"),
        key_file=certificates.path(f"{name}.key"),
        timeout=3,
    )


def test_client_and_server_verify_each_other(
    server: EtcdServers, certificates: Certificates
) -> None:
    with _client(server, certificates) as client:
        revision = client.put("/a", b"x")
        assert client.get("/a").kvs[0].value == b"x"
        with client.watch("/a", revision) as watch:
            response = watch.read(5)
            assert response is not None
            assert response.events[0].kv.value == b"x"
            assert watch.read(0) is None
            assert watch.read(0.1) is None
            client.put("/a", b"y" * 100_000)
            response = watch.read(5)
            assert response is not None
            assert len(response.events[0].kv.value) == 100_000


def test_another_thread_can_end_a_watch_over_tls(
    server: EtcdServers, certificates: Certificates
) -> None:
    with _client(server, certificates) as client:
        watch = client.watch("/a")
        ended = threading.Event()

        def follow() -> None:
            for _response in watch:
                pass
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert not ended.wait(0.3)
        watch.close()
        assert ended.wait(5)


def test_a_host_may_be_named(server: EtcdServers, certificates: Certificates) -> None:
    servers = [url.replace("127.0.0.1", "localhost") for url in server.urls]
    with WatchingClient(
        servers,
        ca_file=certificates.path("ca.pem"),
        cert_file=certificates.path("client.pem"),
        key_file=certificates.path("client.key"),
    ) as client:
        assert client.status().version


@pytest.mark.parametrize("ca", ["other-ca", None])
def test_a_server_of_an_unknown_ca_is_refused(
    server: EtcdServers, certificates: Certificates, ca: str | None
) -> None:
    with (
        WatchingClient(
            server.urls, ca_file=certificates.path(f"{ca}.pem") if ca else None
        ) as client,
        pytest.raises(etcd.EtcdBadCertificate, match="not signed by a CA that is trusted") as got,
    ):
        client.put("/a", b"x")
    assert server.urls[0] in str(got.value)
    assert not got.value.maybe_applied


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("elsewhere", "certificate is not for 127.0.0.1"),
        ("expired", "certificate has expired"),
    ],
)
def test_a_server_certificate_that_is_not_right_is_refused(
    tmp_path: Path, certificates: Certificates, name: str, sentence: str
) -> None:
    arguments = certificates.server_arguments(name)
    with (
        _serve(tmp_path, certificates, arguments) as servers,
        WatchingClient(servers.urls, ca_file=certificates.path("ca.pem")) as client,
    ):
        for use in (lambda: client.put("/a", b"x"), lambda: client.watch("/a")):
            with pytest.raises(etcd.EtcdBadCertificate, match=sentence) as caught:
                use()
            assert servers.urls[0] in str(caught.value)
            assert not caught.value.maybe_applied


# TLS 1.3 tells of it after the handshake, and in a race with what is sent: so more than once.
@pytest.mark.parametrize("_attempt", range(10))
def test_no_client_certificate_where_one_is_wanted(
    server: EtcdServers, certificates: Certificates, _attempt: int
) -> None:
    with WatchingClient(server.urls, ca_file=certificates.path("ca.pem"), timeout=3) as client:
        for use in (lambda: client.put("/a", b"x" * 100_000), lambda: client.watch("/a")):
            with pytest.raises(etcd.EtcdBadCertificate, match="wants a client cert") as got:
                use()
            assert not got.value.maybe_applied


def test_a_client_certificate_of_another_ca(
    server: EtcdServers, certificates: Certificates
) -> None:
    with (
        _client(server, certificates, name="stranger") as client,
        pytest.raises(etcd.EtcdBadCertificate, match="wants a client certificate"),
    ):
        client.get("/a")


def test_http_and_https_mixed_up(
    server: EtcdServers, certificates: Certificates, tmp_path: Path
) -> None:
    url = server.urls[0].replace("https:", "http:")
    with WatchingClient([url]) as client, pytest.raises(etcd.EtcdError, match="does it want https"):
        client.get("/a")
    with EtcdServers(tmp_path) as plain:
        url = plain.urls[0].replace("http:", "https:")
        with (
            WatchingClient([url], ca_file=certificates.path("ca.pem")) as client,
            pytest.raises(etcd.EtcdError, match="does it want http://"),
        ):
            client.get("/a")


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    url = "https://127.0.0.1:2379"
    good = {
        "ca_file": certificates.path("ca.pem"),
        "cert_file": certificates.path("client.pem"),
        "key_file": certificates.path("client.key"),
    }
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is no certificate\n")
    for option in good:
        for path in (str(tmp_path / "missing.pem"), str(tmp_path), str(garbage)):
            with pytest.raises(etcd.EtcdBadCertificate, match=option) as caught:
                WatchingClient([url], **{**good, option: path})
            assert path in str(caught.value)
    with pytest.raises(etcd.EtcdBadCertificate, match="is not the key of"):
        WatchingClient([url], **{**good, "key_file": certificates.path("stranger.key")})


def test_an_encrypted_key_is_refused_without_asking(
    certificates: Certificates, tmp_path: Path
) -> None:
    key = tmp_path / "encrypted.key"
    subprocess.run(
        [
            *"openssl ec -aes128 -passout pass:secret".split(),
            *("-in", certificates.path("client.key"), "-out", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    with pytest.raises(etcd.EtcdBadCertificate, match="encrypted"):
        WatchingClient(
            ["https://127.0.0.1:2379"],
            cert_file=certificates.path("client.pem"),
            key_file=str(key),
        )
