"""Signature Version 4 for DynamoDB requests: the bytes of botocore's signer, for less CPU.

What stays the same from call to call is kept: the key that a day, a region and a service derive
from the secret, and the host of a URL. Whatever is not plain is left to botocore's own signer.
"""

from __future__ import annotations

import hmac
import logging
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from botocore import auth
from botocore.auth import SIGNED_HEADERS_BLACKLIST, SIGV4_TIMESTAMP, SigV4Auth
from botocore.exceptions import NoCredentialsError

from .addresses import host_header

__all__ = ["SIGNATURE_VERSION", "LeanSigV4Auth", "is_plain"]

#: The name under which botocore finds the signer; a ``choose-signer`` handler returns it.
SIGNATURE_VERSION = "v4-alternator-lb"

# A request that has one of these already is signed for the second time, or in a way of its own.
_REPLACED = frozenset(
    {"authorization", "date", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
)
_unsigned = frozenset(SIGNED_HEADERS_BLACKLIST)
_macs: dict[tuple[str, str, str, str], hmac.HMAC] = {}  # with their keys, to be copied
_hosts: dict[str, str] = {}
_log = logging.getLogger("botocore.auth")


class LeanSigV4Auth(SigV4Auth):  # type: ignore[misc]
    """Signs a plain request with a bytes body; leaves everything else to botocore.

    Args:
        credentials: frozen credentials, or None.
        service_name: the service to sign for.
        region_name: the region to sign for.
    """

    def __init__(self, credentials: Any, service_name: str, region_name: str) -> None:
        super().__init__(credentials, service_name, region_name)
        self._place = (region_name, service_name)

    def add_auth(self, request: Any) -> None:
        """Sign a request in place.

        Raises:
            NoCredentialsError: there are no credentials.
        """
        if self.credentials is None:
            raise NoCredentialsError
        context, headers, url = request.context, request.headers, request.url
        if (
            type(request.data) is not bytes
            or not request.data
            or request.params
            or request.method != "POST"
            or "?" in url
            or "#" in url
            or url.count("/") != 3
            or not url.endswith("/")
            or "checksum" in context
            or not context.get("payload_signing_enabled", True)
            or _log.isEnabledFor(logging.DEBUG)
        ):
            super().add_auth(request)
            return
        signed: dict[str, str] = {}
        for name, value in headers.items():
            lower = name.lower()
            if lower in signed or lower in _REPLACED or type(value) is not str:
                super().add_auth(request)
                return
            if lower not in _unsigned:
                signed[lower] = " ".join(value.split())
        timestamp = _now().strftime(SIGV4_TIMESTAMP)
        context["timestamp"] = headers["X-Amz-Date"] = signed["x-amz-date"] = timestamp
        token = self.credentials.token
        if token:
            headers["X-Amz-Security-Token"] = token
            signed["x-amz-security-token"] = " ".join(token.split())
        if "host" not in signed:
            signed["host"] = _hosts.get(url) or _learn_host(url)
        names = sorted(signed)
        names_text = ";".join(names)
        canonical = "\n".join(
            [
                "POST\n/\n",
                *[f"{name}:{signed[name]}" for name in names],
                f"\n{names_text}\n{sha256(request.data).hexdigest()}",
            ]
        )
        day = timestamp[:8]
        scope = "/".join((day, *self._place, "aws4_request"))
        to_sign = (
            f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        )
        mac = self._mac(day).copy()
        mac.update(to_sign.encode())
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.credentials.access_key}/{scope}, "
            f"SignedHeaders={names_text}, Signature={mac.hexdigest()}"
        )

    def _mac(self, day: str) -> hmac.HMAC:
        parts = (self.credentials.secret_key, day, *self._place)
        mac = _macs.get(parts)
        if mac is None:
            key = f"AWS4{parts[0]}".encode()
            for part in (*parts[1:], "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            if len(_macs) >= 64:  # days pass and credentials rotate: do not keep what is over
                _macs.clear()
            _macs[parts] = mac = hmac.new(key, digestmod=sha256)
        return mac


_v4 = auth.AUTH_TYPE_MAPS.get("v4")
_add_auth = SigV4Auth.add_auth


def is_plain() -> bool:
    """Whether botocore's own signer is what it was: who has replaced it wants it to be used."""
    return auth.AUTH_TYPE_MAPS.get("v4") is _v4 and SigV4Auth.add_auth is _add_auth


def _learn_host(url: str) -> str:
    parts = urlsplit(url)
    host = host_header(parts.scheme, parts.hostname or "", parts.port)
    if len(_hosts) < 256:
        _hosts[url] = host
    return host


def _now() -> Any:
    # Looked up at each call, since tests of applications replace them where botocore reads them.
    if hasattr(auth, "get_current_datetime"):
        return auth.get_current_datetime()
    return auth.datetime.datetime.utcnow()


auth.AUTH_TYPE_MAPS.setdefault(SIGNATURE_VERSION, LeanSigV4Auth)
