"""One SSLContext for a whole client: CA certificates are loaded once, not for every connection."""

from __future__ import annotations

import os
import ssl
from importlib.metadata import version
from typing import Any

from urllib3.util.ssl_ import create_urllib3_context

from .errors import InvalidSettingError
from .settings import CaCerts, ClientCert, Verify

__all__ = ["NOT_VERIFIED", "WAY_OUT", "ResumingContext", "build_context"]

#: What the text of an error says, and what that of this library adds to it.
NOT_VERIFIED = "certificate verify failed"
WAY_OUT = (
    "its certificate does not verify: name its CA with ca_certs, the name that it carries with "
    "server_hostname, or set verify=False"
)

# urllib3 1.26 gives OpenSSL no name to check where a node is reached by IP: there it checks itself.
_OPENSSL_CHECKS_NAMES = version("urllib3").split(".")[0] != "1"


class ResumingContext(ssl.SSLContext):
    """Resumes the last TLS session with each node, so that a reconnect costs half a handshake.

    A session is one of this context only, and of one address and name: whatever is resumed was
    verified with the same settings before. Threads may share it: a dict's steps are atomic.
    """

    _sessions: dict[Any, ssl.SSLSession]

    @classmethod
    def new(cls) -> ResumingContext:
        """Return a context with the options that urllib3 would set, and no name check yet."""
        plain = create_urllib3_context()
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._sessions = {}
        context.check_hostname = False
        for name in ("options", "verify_flags", "minimum_version", "maximum_version"):
            setattr(context, name, getattr(plain, name))
        context.post_handshake_auth = True
        if plain.keylog_filename:
            context.keylog_filename = plain.keylog_filename
        return context

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Do the handshake; resume a session if there is one for this node and name."""
        key = (_peer(sock), kwargs.get("server_hostname"))
        kwargs.setdefault("session", self._sessions.get(key))
        return super().wrap_socket(sock, *args, **kwargs)

    def remember(self, sock: ssl.SSLSocket) -> None:
        """Keep the session of a connection that nobody else uses now.

        In TLS 1.3 the node sends it after the handshake, so it is there with the first answer.
        """
        session = sock.session
        if session is not None and session.has_ticket:
            self._sessions[_peer(sock), sock.server_hostname] = session
            if len(self._sessions) > 10_000:
                self._sessions.clear()


def _peer(sock: Any) -> Any:
    try:
        return sock.getpeername()
    except OSError:  # it was closed in the meantime
        return None


def build_context(
    verify: Verify,
    *,
    ca_certs: CaCerts = None,
    client_cert: ClientCert = None,
    key_password: str | None = None,
    check_hostname: bool = True,
) -> ssl.SSLContext:
    """Return a context that has everything loaded, and that resumes sessions.

    It belongs to one client: urllib3 writes ``verify_mode`` on the context that it is handed.

    Args:
        verify: True (the system's CA certificates), False, or the path of a bundle or directory.
        ca_certs: CA certificates on top of these: a path, several, PEM text or DER bytes.
        client_cert: the path of a PEM file, or of certificate and key.
        key_password: the password of the key.
        check_hostname: False where the caller lets urllib3 check another name, or none.

    Raises:
        InvalidSettingError: a certificate cannot be loaded; the text names the setting and file.
    """
    context = ResumingContext.new()
    if verify is False:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = check_hostname and _OPENSSL_CHECKS_NAMES
        if verify is True:
            context.load_default_certs()
        else:
            _load(context, "verify", verify)
    if ca_certs is not None:
        several = isinstance(ca_certs, (list, tuple))
        for entry in ca_certs if several else (ca_certs,):  # type: ignore[union-attr]
            _load(context, "ca_certs", entry)
    if client_cert is not None:
        pair = client_cert if isinstance(client_cert, tuple) else (client_cert, None)
        try:
            context.load_cert_chain(pair[0], pair[1], key_password)
        except (OSError, ValueError, TypeError) as error:
            raise InvalidSettingError(
                f"client_cert {client_cert!r} cannot be loaded: {error}"
            ) from error
    return context


def _load(context: ssl.SSLContext, setting: str, entry: Any) -> None:
    try:
        if isinstance(entry, bytes) or (isinstance(entry, str) and "-----BEGIN" in entry):
            context.load_verify_locations(cadata=entry)
        elif os.path.isdir(entry):
            context.load_verify_locations(capath=entry)
        else:
            context.load_verify_locations(cafile=entry)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettingError(
            f"setting {setting}: CA certificates cannot be loaded from {entry!r:.200}: {error}"
        ) from error
