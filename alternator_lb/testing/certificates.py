"""Certificates for a cluster: one authority, one certificate a node, and broken ones on request."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

from ..extras import need

FAULTS = ("expired", "wrong-name", "unknown-ca")


class Certificates:
    """An authority and what it signed, as PEM files in a folder of the caller's."""

    def __init__(self, name: str) -> None:
        """Make an authority.

        Args:
            name: the DNS name that every node's certificate carries.

        Raises:
            MissingExtraError: trustme is not installed.
        """
        self._trustme: Any = need("trustme", "testing", "LocalCluster")
        self._authority = self._trustme.CA()
        self._name = name

    def write_authority(self, folder: Path) -> str:
        """Write the authority's certificate; returns the file's path."""
        path = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(path))
        return str(path)

    def write_client(self, folder: Path) -> tuple[str, str]:
        """Write a client's certificate and its key; returns both paths."""
        leaf = self._authority.issue_cert("client@alternator.test")
        return _write(leaf, folder, "client")

    def write_node(
        self, folder: Path, address: str, *, with_address: bool, fault: str | None
    ) -> tuple[str, str]:
        """Write a node's certificate chain and its key; returns both paths.

        Args:
            folder: where to.
            address: the node's IP address.
            with_address: whether the certificate names that address beside the DNS name.
            fault: one of `FAULTS`, or None for a certificate that verifies.
        """
        names = [self._name, address] if with_address else [self._name]
        authority, validity = self._authority, {}
        if fault == "expired":
            validity["not_after"] = datetime.datetime(2020, 1, 1)
        elif fault == "wrong-name":
            names = ["elsewhere.test"]
        elif fault == "unknown-ca":
            authority = self._trustme.CA()
        leaf = authority.issue_cert(*names, **validity)
        return _write(leaf, folder, address.replace(":", "_"))


def server_context(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """Return a context for a node, which asks for a client certificate if given an authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def _write(leaf: Any, folder: Path, stem: str) -> tuple[str, str]:
    chain, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(str(key))
    return str(chain), str(key)
