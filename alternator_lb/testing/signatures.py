"""Check AWS Signature Version 4 as Alternator does, with botocore's own signer."""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from .messages import Request

_ALGORITHM = "AWS4-HMAC-SHA256"
_VALID_FOR = datetime.timedelta(minutes=15)
_DATE = "%Y%m%dT%H%M%SZ"


class Rejected(Exception):
    """A request whose signature does not hold: an error code of Alternator's, and why."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the error code and the text."""
        super().__init__(message)
        self.code = code
        self.message = message


def check_signature(
    request: Request, users: Mapping[str, str], now: datetime.datetime | None = None
) -> str:
    """Check the signature of a request against the headers and the body that arrived.

    Args:
        request: the request as it arrived.
        users: access key -> secret key.
        now: the time that X-Amz-Date is held against; None for the clock's.

    Returns:
        The access key that signed.

    Raises:
        Rejected: as Alternator would; a wrong secret, a header or a body that was changed on the
            way are all one UnrecognizedClientException.
    """
    if not request.header("host"):
        raise _invalid("Host header is mandatory for signature verification")
    authorization = request.header("authorization")
    if not authorization:
        raise Rejected(
            "MissingAuthenticationTokenException",
            "Authorization header is mandatory for signature verification",
        )
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != _ALGORITHM:
        raise _invalid(f"Authorization header must use {_ALGORITHM} algorithm: {authorization}")
    fields = dict(
        entry.split("=", 1) for entry in rest.replace(",", " ").split() if entry.count("=") == 1
    )
    credential = fields.get("Credential", "")
    scope = credential.split("/")
    if len(scope) != 5:
        raise Rejected(
            "ValidationException", f"Incorrect credential information format: {credential}"
        )
    user, day, region, service, _end = scope
    if user not in users:
        raise Rejected("UnrecognizedClientException", f"User not found: {user}")

    signed = _signed_headers(request, fields.get("SignedHeaders", "").split(";"))
    if "host" not in signed:
        raise _invalid("Host header should be present in the list of signed headers")
    date = str(signed.get("x-amz-date", ""))
    _check_date(date, day, now or datetime.datetime.now(datetime.timezone.utc))

    expected = _signature(request, signed, date, Credentials(user, users[user]), service, region)
    if not hmac.compare_digest(expected.encode(), fields.get("Signature", "").encode()):
        raise Rejected("UnrecognizedClientException", "wrong signature")
    return user


def _signed_headers(request: Request, names: list[str]) -> Any:
    wanted, signed = set(names), HTTPHeaders()
    for name, value in request.headers:
        if name.lower() in wanted:
            signed[name.lower()] = value
    return signed


def _check_date(date: str, day: str, now: datetime.datetime) -> None:
    if not date:
        raise _invalid("X-Amz-Date header is mandatory for signature verification")
    earliest, latest = ((now + sign * _VALID_FOR).strftime(_DATE) for sign in (-1, 1))
    if date < earliest:
        raise _invalid(f"Signature expired: {date} is now earlier than {earliest}")
    if date > latest:
        raise _invalid(f"Signature not yet current: {date} is still later than {latest}")
    if date[:8] != day:
        raise _invalid(f"X-Amz-Date does not match the credential's date: {date}, {day}")


def _signature(
    request: Request, signed: Any, date: str, credentials: Credentials, service: str, region: str
) -> str:
    told = signed.get("x-amz-content-sha256")
    if told is not None and told != hashlib.sha256(request.body).hexdigest():
        # botocore takes this header for the body's hash; Alternator hashes what arrived.
        raise Rejected("UnrecognizedClientException", "wrong signature")
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.header('host')}{request.target}",
        headers=signed,
        data=request.body,
    )
    again.context["timestamp"] = date
    signer = _Signer(credentials, service, region)
    to_sign = signer.string_to_sign(again, signer.canonical_request(again))
    return str(signer.signature(to_sign, again))


class _Signer(SigV4Auth):  # type: ignore[misc]
    """botocore's signer over just the headers that it is given."""

    def headers_to_sign(self, request: AWSRequest) -> Any:
        """Leave the choice of headers to who signed first."""
        return request.headers


def _invalid(message: str) -> Rejected:
    return Rejected("InvalidSignatureException", message)
