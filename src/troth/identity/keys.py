"""Key pairs: which ones are acceptable, and how private keys are kept out of logs and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from troth.errors import Flaw, refusal, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
    )

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# What both BoringSSL (in Envoy) and OpenSSL verify by default, at 112 bits of security and more.

# Ed25519 and P-521 are off in BoringSSL's default TLS configuration, so their owner could never
# complete a handshake. The upper bound keeps one request from costing seconds of arithmetic.
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS = range(2048, 4096 + 1)
_RSA_EXPONENT = 65537
_WANTED = "use ECDSA P-256 (troth's own choice), ECDSA P-384, or RSA of 2048 to 4096 bits"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a key pair for one certificate: ECDSA on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


class PrivateKeyPem:
    """A private key in PEM (PKCS #8, unencrypted) that only `reveal` shows.

    Its `repr` has no key material, it cannot be pickled, and an encoder (JSON, a log renderer)
    fails on it instead of writing it.
    """

    __slots__ = ("_pem",)

    def __init__(self, key: PrivateKeyTypes) -> None:
        self._pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def parse(cls, pem: bytes, *, subject: str = "private key", path: str = "") -> Self:
        """Read an unencrypted private key of a kind that troth accepts.

        Raises:
            InputError: It isn't one; ``subject`` and ``path`` name it in the message.
        """
        return cls(load_signing_key(pem, subject=subject, path=path))

    def reveal(self) -> bytes:
        """The key itself: only for its user."""
        return self._pem

    def __repr__(self) -> str:
        return f"<{type(self).__name__} hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")


def load_signing_key(pem: bytes, *, subject: str, path: str) -> SigningKey:
    """Read an unencrypted private key in PEM.

    Raises:
        InputError: It isn't one, or `key_flaws` refuses it. The message never quotes any of it.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: the cause's text could quote the key.
        raise refusal(
            subject, Flaw("is not an unencrypted private key in PEM", _WANTED, path)
        ) from None
    if not isinstance(key, SigningKey):
        raise refusal(subject, Flaw("is a key of a kind that is not accepted", _WANTED, path))
    refuse(subject, key_flaws(key.public_key(), path))
    return key


def key_flaws(key: CertificatePublicKeyTypes, path: str) -> Iterator[Flaw]:
    """Say why ``key`` is not acceptable in a certificate, if it isn't."""
    match key:
        case ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, _CURVES):
                yield Flaw(f"is on the curve {key.curve.name}", _WANTED, path)
        case rsa.RSAPublicKey():
            if key.key_size not in _RSA_BITS:
                yield Flaw(f"is RSA of {key.key_size} bits", _WANTED, path)
            if (exponent := key.public_numbers().e) != _RSA_EXPONENT:
                yield Flaw(f"has the RSA exponent {exponent}", f"use {_RSA_EXPONENT}", path)
        case _:
            yield Flaw("is a key of a kind that is not accepted", _WANTED, path)
