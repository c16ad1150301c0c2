"""OpenSSL as a TLS 1.3 client over bytes: its input, its output, and why it stops.

Through pyOpenSSL rather than the ``ssl`` module: keys come from memory, the time of verification is
an argument, a server can be refused by its SPIFFE ID before the client presents its certificate,
and the library brings its own OpenSSL, with post-quantum groups.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from OpenSSL import SSL, crypto

from troth.errors import InputError, Problem
from troth.handshake.certificates import identity_flaw, load_certificates, verify_error
from troth.handshake.wire import ContentType, Secrets, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from troth.handshake.certificates import ClientCredentials
    from troth.identity.spiffe import SpiffeId

_CHUNK = 65536
_MAX_SERVER_NAME = 255
# SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL has no name for: send the chain as given, without a root
# from the trust bundle.
_NO_AUTO_CHAIN = 8
# OpenSSL's state once it has checked the server's CertificateVerify.
_PROVEN = b"TLSv1.3 read server certificate verify"
# The alert to a server with a valid chain but the wrong name: certificate_unknown, by RFC 8446
# section 6.2. OpenSSL would send internal_error, because pyOpenSSL's callback can't name an error.
# Like any alert before the client's second flight, it isn't encrypted yet.
_CERTIFICATE_UNKNOWN = bytes([ContentType.ALERT, 3, 3, 0, 2, 2, 46])


class Engine:
    """One TLS client connection in memory.

    Attributes:
        secrets: The connection's traffic secrets so far.
        refusal: Why the server's certificate was refused, if it was.
        proven: The server has proved that it holds its certificate's key.

    Raises:
        InputError: ``bundle`` contains no readable certificate, or ``server_name`` is invalid.
    """

    def __init__(
        self,
        *,
        server_name: str,
        alpn: str,
        credentials: ClientCredentials | None,
        bundle: bytes,
        expected: SpiffeId | None,
        now: datetime,
    ) -> None:
        self.secrets = Secrets()
        self.refusal: str | None = None
        self.proven = False
        self._wrong_name = False
        self._expected = expected

        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_mode(_NO_AUTO_CHAIN)
        context.set_verify(SSL.VERIFY_PEER, self._verify)
        context.set_info_callback(self._watch)
        context.set_keylog_callback(lambda _, line: self.secrets.add(line))
        _trust(context, bundle, now)
        if credentials:
            leaf, *others = credentials.chain
            context.use_certificate(leaf)
            context.use_privatekey(credentials.key)
            for certificate in others:
                context.add_extra_chain_cert(certificate)
        self._connection = SSL.Connection(context, None)
        self._connection.set_tlsext_host_name(_checked(server_name))
        self._connection.set_alpn_protos([alpn.encode("ascii")])
        self._connection.set_connect_state()

    def _verify(
        self, _: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
    ) -> bool:
        """OpenSSL's verification callback: it judges the chain, we judge the name."""
        flaw = None
        if not ok:
            flaw = verify_error(error)
        elif depth == 0:
            flaw = identity_flaw(certificate, self._expected)
            self._wrong_name = flaw is not None
        if flaw and self.refusal is None:
            self.refusal = flaw
        return flaw is None

    def _watch(self, connection: SSL.Connection, where: int, _: int) -> None:
        """OpenSSL's info callback, which comes before each change of state."""
        if where & SSL.SSL_CB_LOOP and connection.get_state_string() == _PROVEN:
            self.proven = True

    @property
    def alpn(self) -> str | None:
        """The protocol the server chose."""
        return printable(self._connection.get_alpn_proto_negotiated().decode("latin-1")) or None

    def handshake(self, record: bytes = b"") -> str | None:
        """Continue the handshake; return OpenSSL's error, if any, in its own words."""
        return self._drive(self._connection.do_handshake, record)

    def read(self, record: bytes) -> tuple[bytes, str | None]:
        """The application data in ``record``, and OpenSSL's error, if any."""
        data = bytearray()

        def read() -> None:
            while True:
                data.extend(self._connection.recv(_CHUNK))

        failure = self._drive(read, record)
        return bytes(data), failure

    def write(self, data: bytes) -> str | None:
        """Encrypt application data."""
        return self._drive(lambda: self._connection.sendall(data))

    def shutdown(self) -> None:
        """Say close_notify."""
        self._drive(self._connection.shutdown)

    def output(self) -> bytes:
        """The bytes to send now."""
        out = b""
        try:
            while True:
                out += self._connection.bio_read(_CHUNK)
        except SSL.WantReadError:
            return _CERTIFICATE_UNKNOWN if out and self._wrong_name else out

    def _drive(self, action: Callable[[], object], arrived: bytes = b"") -> str | None:
        if arrived:
            self._connection.bio_write(arrived)
        try:
            action()
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return None
        except SSL.Error as error:
            match error.args:
                case ([*queue],):  # OpenSSL's error queue: library, function, reason
                    return "; ".join(str(entry[-1]) for entry in queue) or "TLS protocol error"
                case words:
                    return str(words[-1]) if words else "TLS protocol error"
        return None


def _trust(context: SSL.Context, bundle: bytes, now: datetime) -> None:
    store = context.get_cert_store()
    if store is None:
        raise AssertionError("every context has a certificate store")
    for certificate in load_certificates("trust bundle", "", bundle):
        store.add_cert(crypto.X509.from_cryptography(certificate))
    # pyOpenSSL reads the fields of the time as UTC, whatever its zone.
    store.set_time(now.astimezone(UTC))
    # An authority in the bundle is an anchor even when it is an intermediate, as for Envoy.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)


def _checked(server_name: str) -> bytes:
    if server_name.isascii() and 0 < len(server_name) <= _MAX_SERVER_NAME:
        return server_name.encode("ascii")
    problem = Problem(
        subject="TLS client",
        path="server name",
        found=f"{server_name[:80]!r} can't be sent",
        wanted=f"use 1 to {_MAX_SERVER_NAME} ASCII characters, such as 8080",
    )
    raise InputError([problem])
