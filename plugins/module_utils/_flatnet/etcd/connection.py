# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection to one etcd member. Private to client.py.

It knows how far a request got. A request that failed before its last byte was handed over had no
effect, because etcd acts on a whole JSON object only.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import time
from typing import NamedTuple

from .errors import (
    EtcdAnswerTooLarge,
    EtcdBadAnswer,
    EtcdBadCertificate,
    EtcdTimeout,
    EtcdUnreachable,
    Failed,
)
from .http import Answer, BadHttp
from .options import Endpoint
from .resolve import Resolver

RECEIVE = 262144
# Bytes of one answer. A page of a thousand leases has half a MiB.
MAX_ANSWER = 64 << 20
# OpenSSL's numbers of why a certificate does not verify.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64

# Alerts of a server that wants a certificate of the client, or another one.
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")


class Request(NamedTuple):
    """need_leader: if the member has no leader, it says so at once, and ends its watches."""

    path: str
    body: bytes
    write: bool = False
    need_leader: bool = True


class Connection:
    """A connection that is opened when first needed, and again when the member closed it."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self.sock: socket.socket | None = None
        self._context = context
        self._used = False
        self._resolver = Resolver(endpoint.host, endpoint.port)

    @property
    def address(self) -> str:
        """The address that it leads to; empty while it is closed."""
        try:
            return str(self.sock.getpeername()[0]) if self.sock is not None else ""
        except OSError:
            return ""

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock = None
        self._used = False

    def exchange(self, request: Request, token: str, deadline: float) -> tuple[int, bytes]:
        """POST, and read the whole answer before the deadline. Returns the HTTP status and body."""
        answer = Answer()
        parts: list[bytes] = []
        size = 0
        try:
            self.send(request, token, deadline)
            while not answer.complete:
                parts.append(self.receive(answer, deadline))
                size += len(parts[-1])
                if size > MAX_ANSWER:
                    raise EtcdAnswerTooLarge(
                        f"etcd at {self.endpoint.url} answers with more than "
                        f"{MAX_ANSWER >> 20} MiB at once",
                        maybe_applied=request.write,
                    )
        except BaseException:
            # Also for an interrupt: the next call must not read this one's answer.
            self.close()
            raise
        if not answer.keep_alive:
            self.close()
        return answer.status, b"".join(parts)

    def send(self, request: Request, token: str, deadline: float) -> None:
        """Hand over a whole request, or fail with sent=False."""
        host = self.endpoint.host
        host = f"[{host.partition('%')[0]}]" if ":" in host else host.encode("idna").decode()
        head = [
            f"POST {request.path} HTTP/1.1",
            f"Host: {host}:{self.endpoint.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(request.body)}",
        ]
        if request.need_leader:
            head.append("Grpc-Metadata-hasleader: true")
        if token:
            head.append(f"Authorization: {token}")
        data = "\r\n".join([*head, "", ""]).encode("ascii") + request.body

        sock = self._idle_socket()
        for fresh in (sock is None, True):
            if sock is None:
                sock = self._open(deadline)
            try:
                sock.settimeout(_remaining(deadline))
                sock.sendall(data)
                return
            except OSError as error:
                failure = self._failure(error, deadline, sent=False)
                self.close()
                sock = None
                if fresh:
                    raise failure from None

    def receive(self, answer: Answer, deadline: float) -> bytes:
        """The next piece of the answer's body, which may be empty."""
        try:
            sock = self._connected()
            sock.settimeout(_remaining(deadline))
            body = answer.feed(sock.recv(RECEIVE))
            if answer.ended and not answer.complete:
                raise ConnectionError("the connection was closed before an answer was complete")
            return body
        except BadHttp as error:
            # This is not etcd, so nothing in etcd has changed.
            raise Failed(EtcdBadAnswer, f"does not speak HTTP ({error})") from None
        except OSError as error:
            failure = self._failure(error, deadline, sent=True)
            if not answer.status and failure.kind is EtcdUnreachable:
                failure.stale = self._used
                if not self._used and not self.endpoint.tls:
                    failure.reason += " (does it want https://?)"
            raise failure from None
        finally:
            if answer.complete:
                self._used = True

    def wait(self, answer: Answer, timeout: float | None) -> bytes | None:
        """As receive, for a stream that may be silent: None if nothing came within ``timeout``
        seconds (None: no limit). b"" if the stream ended, or if only HTTP's own bytes came.
        """
        try:
            sock = self._connected()
            sock.settimeout(timeout)
            return answer.feed(sock.recv(RECEIVE))
        except (socket.timeout, BlockingIOError, ssl.SSLWantReadError) as error:
            if error.errno == errno.ETIMEDOUT:
                raise Failed(EtcdUnreachable, "its host does not answer any more") from None
            return None
        except BadHttp as error:
            raise Failed(EtcdBadAnswer, f"does not speak HTTP ({error})") from None
        except OSError as error:
            raise self._failure(error, time.monotonic(), sent=True) from None

    def _connected(self) -> socket.socket:
        if self.sock is None:
            raise OSError(errno.ENOTCONN, "the connection is closed")
        return self.sock

    def keep_alive(self) -> None:
        """Have the kernel find out, within about 15 seconds, that the member's host is gone, or
        that something on the way has forgotten the connection."""
        sock = self._connected()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, number in (
            ("TCP_KEEPIDLE", 9),
            ("TCP_KEEPINTVL", 2),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 15000),
        ):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), number)

    def wake(self) -> None:
        """End a wait that is under way in another thread."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                # The plain socket's: TLS would also forget its state, which the other thread uses.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _idle_socket(self) -> socket.socket | None:
        """The open socket. If it is readable between calls, it was closed by the member."""
        if self.sock is not None:
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            if poll.poll(0):
                self.close()
        return self.sock

    def _open(self, deadline: float) -> socket.socket:
        host = self.endpoint.host
        addresses = self._resolver.addresses(deadline - time.monotonic())
        failure = Failed(EtcdUnreachable, "the name has no address")
        for index, (family, kind, protocol, _name, address) in enumerate(addresses):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                # A family that this host has not, or no descriptor left.
                failure = self._failure(error, deadline, sent=False, opening=True)
                continue
            try:
                # A name's addresses share what time is left.
                sock.settimeout(_remaining(deadline) / (len(addresses) - index))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.endpoint.tls and self._context is not None:
                    sock.settimeout(_remaining(deadline))
                    sock = self._context.wrap_socket(sock, server_hostname=host.partition("%")[0])
                self.sock = sock
                self._used = False
                return sock
            except OSError as error:
                sock.close()
                failure = self._failure(error, deadline, sent=False, opening=True)
        raise failure

    def _failure(
        self, error: OSError, deadline: float, sent: bool, opening: bool = False
    ) -> Failed:
        """What an error of the socket means. It may be a TLS alert, which any call can raise."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return Failed(EtcdBadCertificate, _why_not_verified(error, self.endpoint.host))
        if isinstance(error, socket.timeout):
            if opening:
                return Failed(EtcdUnreachable, "nobody answers the connection in time")
            return Failed(EtcdTimeout, "no answer in time", sent)
        if not sent and not opening and self.endpoint.tls:
            error = self._alert_behind(error, deadline)
        if isinstance(error, ssl.SSLError):
            reason = error.reason or str(error)
            if "ALERT" in reason and any(each in reason for each in _CERTIFICATE_ALERTS):
                # With TLS 1.3 the server judges the client's certificate after the handshake.
                return Failed(
                    EtcdBadCertificate,
                    "the server wants a client certificate, or does not accept the one given "
                    f"({reason.lower().replace('_', ' ')}); give an etcd_cert_file signed by "
                    "the CA that etcd trusts, and its etcd_key_file",
                )
            why = f"TLS failed ({reason})"
        else:
            why = (error.strerror or str(error)).lower()
        if (
            opening
            and self.endpoint.tls
            and isinstance(error, (ssl.SSLError, ConnectionResetError))
        ):
            why += " (does it want http://?)"
        return Failed(EtcdUnreachable, why, sent)

    def _alert_behind(self, error: OSError, deadline: float) -> OSError:
        """A server that closed the connection while we were sending may have sent an alert
        before."""
        try:
            if self.sock is not None:
                self.sock.settimeout(min(1.0, _remaining(deadline)))
                self.sock.recv(1)
        except ssl.SSLError as alert:
            return alert
        except OSError:
            pass
        return error


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _why_not_verified(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        return f"the server's certificate is not for {host}; use a name or address that is in it"
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired; renew it, or correct this host's clock"
    if error.verify_code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet; compare the clocks of both hosts"
    return (
        f"the server's certificate is not signed by a CA that is trusted here "
        f"({error.verify_message}); give etcd's CA as etcd_ca_file"
    )
