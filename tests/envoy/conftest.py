"""Real Envoys on loopback, and certificates good and bad for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory for this test's sockets: 0700, and a path short enough for them."""
    path = Path(tempfile.mkdtemp(prefix="troth"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a TCP port of 127.0.0.1 that nothing listens on, another one at each call."""
    given: set[int] = set()

    def find() -> int:
        while True:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port: int = server.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return find


@pytest.fixture
def until() -> Until:
    """Waits for a condition; pytest's own timeout bounds it."""

    async def wait(condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110  files and processes set no events
            await asyncio.sleep(0.01)

    return wait


BOTH_PURPOSES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Pki:
    """A mesh's certificates and those that must not pass, as PEM files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = dt.datetime.now(dt.UTC)
        self._authorities = {name: self._authority(name) for name in ("mesh", "foreign")}

    def ca(self, name: str = "mesh") -> Path:
        return self._folder / f"{name}.crt"

    def leaf(
        self,
        uri: str | None = None,
        *,
        uris: Sequence[str] = (),
        ca: str = "mesh",
        begins: float = -1,
        ends: float = 1,
        signs: bool = False,
        usages: Collection[str] | None = ("digital_signature",),
        purposes: Sequence[x509.ObjectIdentifier] = BOTH_PURPOSES,
        names: Sequence[x509.GeneralName] = (),
    ) -> Pair:
        """A certificate with these URIs as its only SANs, valid between two days from now.

        Args:
            uri: The SAN, if it has but one.
            uris: The SANs, or more of them.
            ca: Who signs it.
            begins: When it begins to be valid.
            ends: When it ends.
            signs: Whether it is a CA's.
            usages: Of its key; None for none said.
            purposes: Its extended key usage.
            names: SANs that come before the URIs.
        """
        all_uris = uris if uri is None else [uri, *uris]
        sans = [*names, *(x509.UniformResourceIdentifier(each) for each in all_uris)]
        key = ec.generate_private_key(ec.SECP256R1())
        ca_key, ca_certificate = self._authorities[ca]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(ca_certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now + dt.timedelta(days=begins))
            .not_valid_after(self._now + dt.timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        if usages is not None:
            certificate = certificate.add_extension(_key_usage(usages), critical=True)
        if sans:
            certificate = certificate.add_extension(
                x509.SubjectAlternativeName(sans), critical=True
            )
        return self._sign(certificate, key, ca_key)

    def _sign(
        self,
        template: x509.CertificateBuilder,
        key: ec.EllipticCurvePrivateKey,
        ca_key: ec.EllipticCurvePrivateKey,
    ) -> Pair:
        certificate = template.sign(ca_key, hashes.SHA256())
        return self._write(f"{certificate.serial_number:x}", key, certificate)

    def _authority(self, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - dt.timedelta(days=3))
            .not_valid_after(self._now + dt.timedelta(days=3))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self._write(name, key, certificate)
        return key, certificate

    def _write(
        self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair


def _key_usage(usages: Collection[str]) -> x509.KeyUsage:
    known = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{usage: usage in usages for usage in known})


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A fresh CA and a foreign one."""
    return Pki(tmp_path_factory.mktemp("pki"))
