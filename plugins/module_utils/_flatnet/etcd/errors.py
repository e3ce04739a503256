# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Errors of the etcd client. Private to client.py, which exports them.

Each text says what is wrong, at which endpoint, and what to do. No credential, token or request
body ever enters a text, and errors are raised ``from None`` where the cause could carry one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import FlatnetError, InvalidInput

# gRPC status codes that the gateway passes on.
INVALID_ARGUMENT, DEADLINE, NOT_FOUND, DENIED = 3, 4, 5, 7
OUT_OF_RANGE, UNAVAILABLE, UNAUTHENTICATED = 11, 14, 16
# With these codes a write may have been applied all the same: cancelled, unknown, aborted,
# internal, data loss.
_FATE_UNKNOWN = (1, 2, 10, 13, 15)
_CODE_NAMES = (
    "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied "
    "ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable "
    "DataLoss Unauthenticated"
).split()

# etcd's longest reasons are of some 200 characters.
MAX_REASON = 500
READ_AGAIN = "the change may have been applied all the same; read again before repeating it"


class EtcdError(FlatnetError):
    """Anything that went wrong between this client and etcd.

    maybe_applied: the request was a write, it was sent, and nobody knows whether it took effect.
    """

    advice = ""

    def __init__(self, message: str, maybe_applied: bool = False) -> None:
        super().__init__(f"{message}; {READ_AGAIN}" if maybe_applied else message)
        self.maybe_applied = maybe_applied


class EtcdInvalidOption(EtcdError, InvalidInput):
    """An option of the client is wrong or contradicts another; option is its short name."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class EtcdUnreachable(EtcdError):
    """No endpoint could be reached, or the connection broke."""

    advice = (
        "check that etcd runs there, that the endpoints are right and that no firewall is between"
    )


class EtcdTimeout(EtcdError):
    """Connected, but no answer in time."""

    advice = "check the load of that etcd and of its disk, or raise the timeout"


class EtcdNoQuorum(EtcdError):
    """The member answers, but has no leader: most of the cluster's members are down or cut off."""

    advice = (
        "most members of the etcd cluster must run and reach each other; "
        "'etcdctl endpoint status --cluster' shows which do"
    )


class EtcdBadCertificate(EtcdError):
    """TLS was refused by one side, or a file with a certificate or key cannot be used."""


class EtcdBadAnswer(EtcdError):
    """What answers is not etcd's JSON gateway."""

    advice = "check host and port; etcd 3.4 or later answers there with JSON"


class EtcdAnswerTooLarge(EtcdBadAnswer):
    """An answer is larger than this client takes."""


class EtcdAuthFailed(EtcdError):
    """Wrong user or password, or none where etcd wants them."""


class EtcdPermissionDenied(EtcdError):
    """etcd knows the user, who may not do this."""


class EtcdCompacted(EtcdError):
    """The revision asked for is gone. compact_revision is 0 where etcd does not tell it."""

    def __init__(self, message: str, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class EtcdLeaseNotFound(EtcdError):
    """The etcd lease is expired or revoked."""


class EtcdWatchClosed(EtcdError):
    """The watch was closed on this side."""


class EtcdRequestError(EtcdError):
    """etcd refused the request for another reason: code is gRPC's, reason is etcd's text."""

    def __init__(self, message: str, code: int, reason: str, maybe_applied: bool = False) -> None:
        super().__init__(message, maybe_applied)
        self.code = code
        self.reason = reason


class Failed(Exception):
    """One endpoint failed, and another one may not. This error never leaves the client.

    sent: the whole request was handed over, so a write may have taken effect.
    stale: the connection had been idle, and was closed before anything came back.
    """

    def __init__(
        self, kind: type[EtcdError], reason: str, sent: bool = False, stale: bool = False
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.sent = sent
        self.stale = stale


class Refusal(NamedTuple):
    """An error as etcd worded it."""

    code: int
    text: str

    @property
    def about_token(self) -> bool:
        """Whether a new token may help: the old one expired, its member restarted, or
        authentication was enabled since."""
        return (
            self.code == UNAUTHENTICATED
            or "auth token" in self.text
            or "revision of auth store is old" in self.text
            or "revision in header is old" in self.text
            or "user name is empty" in self.text
        )

    @property
    def auth_disabled(self) -> bool:
        return "authentication is not enabled" in self.text


def parse_refusal(answer: object) -> Refusal:
    """Read the body of an HTTP error or of a stream's error; ValueError if it is not etcd's."""
    if isinstance(answer, dict):
        code = answer.get("code", answer.get("grpc_code"))
        text = answer.get("message", answer.get("error"))
        if isinstance(code, int) and isinstance(text, str):
            return Refusal(code, _shown(text))
    raise ValueError("not an etcd error")


def _shown(text: str) -> str:
    """A foreign text for terminals and logs: on one line, and cut off if it is long."""
    if len(text) > MAX_REASON:
        text = text[:MAX_REASON] + "…"
    return "".join(each if each.isprintable() else " " for each in text)


def parse_cancel_reason(text: str) -> Refusal:
    """The refusal that a cancelled watch comes with. Its text may have the code's name in it."""
    text = _shown(text)
    found = re.match(r"rpc error: code = (\w+) desc = (.*)", text, re.DOTALL)
    if found and found.group(1) in _CODE_NAMES:
        return Refusal(_CODE_NAMES.index(found.group(1)), found.group(2))
    return Refusal(2, text)


def refused(refusal: Refusal, url: str, user: str, write: bool) -> Exception:
    """The error for a refusal. It is a Failed if another endpoint may do better, else final."""
    code, text = refusal
    reason = text[len("etcdserver: ") :] if text.startswith("etcdserver: ") else text
    if reason == "no leader":
        return Failed(EtcdNoQuorum, "this member has no leader")
    if "rror while dialing" in text:
        # The gateway could not reach its own member: never proposed.
        return Failed(EtcdUnreachable, f"etcd's gateway cannot reach its own etcd: {reason}")
    if code in (UNAVAILABLE, DEADLINE):
        return Failed(EtcdTimeout, reason, sent=True)
    if code == DENIED:
        who = f"user {user!r}" if user else "an anonymous client"
        return EtcdPermissionDenied(
            f"etcd at {url} does not permit this to {who}: {reason}; "
            "grant the user's role readwrite on the keys of the prefix"
        )
    if "user name is empty" in text:
        return EtcdAuthFailed(
            f"etcd at {url} wants a user and a password, and none are given; "
            "set etcd_username and etcd_password"
        )
    if code == UNAUTHENTICATED or "authentication failed" in text:
        return EtcdAuthFailed(
            f"etcd at {url} does not accept the password of user {user!r}: {reason}; "
            "check etcd_username and etcd_password"
        )
    if "required revision has been compacted" in text:
        return EtcdCompacted(f"etcd at {url} no longer holds that revision: {reason}")
    if "requested lease not found" in text:
        return EtcdLeaseNotFound(f"etcd at {url}: the etcd lease has expired or was revoked")
    return EtcdRequestError(
        f"etcd at {url} refused the request: {reason} (code {code})",
        code,
        reason,
        maybe_applied=write and code in _FATE_UNKNOWN,
    )


def exhausted(failures: Sequence[tuple[str, Failed]], maybe_applied: bool = False) -> EtcdError:
    """The error when every endpoint failed. If they failed in several ways, the error is of the
    kind that says most."""
    kinds = [failure.kind for _url, failure in failures]
    order = (EtcdNoQuorum, EtcdBadCertificate, EtcdBadAnswer, EtcdTimeout, EtcdUnreachable)
    kind = next(each for each in order if each in kinds)
    reasons: list[str] = [f"{url}: {failure.reason}" for url, failure in failures]
    summary = {
        EtcdNoQuorum: "etcd has no quorum",
        EtcdBadCertificate: "TLS to etcd failed",
        EtcdBadAnswer: "this is not etcd",
        EtcdTimeout: "etcd does not answer in time",
        EtcdUnreachable: "etcd cannot be reached",
    }[kind]
    told = [f"{summary}: {reasons[0]}", *reasons[1:], kind.advice]
    return kind("; ".join(filter(None, told)), maybe_applied)
