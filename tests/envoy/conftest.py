"""Real Envoys on loopback, and certificates good and bad for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
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

    def leaf(self, uri: str, *, ca: str = "mesh", begins: float = -1, ends: float = 1) -> Pair:
        """A certificate with ``uri`` as its only SAN, valid between two days from now."""
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
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
            )
            .sign(ca_key, hashes.SHA256())
        )
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


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A fresh CA and a foreign one."""
    return Pki(tmp_path_factory.mktemp("pki"))
