"""The certificates in a real TLS 1.3 handshake, with OpenSSL on both sides and no socket."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import TYPE_CHECKING, NamedTuple

import pytest

from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import validate_svid_chain
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid

if TYPE_CHECKING:
    from pathlib import Path

    from tests.identity.conftest import Forge

    from troth.identity.bundle import TrustBundle

TD = TrustDomain("cluster.local")
CLIENT = SpiffeId.for_service_account(TD, "finance", "web")
SERVER = SpiffeId.for_service_account(TD, "finance", "payments")


class Peer(NamedTuple):
    """One side: what it shows, if anything, and whom it believes."""

    svid: X509Svid | None
    bundle: TrustBundle

    def context(self, protocol: int, directory: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.bundle.pem.decode())
        if self.svid:
            file = directory / "svid.pem"
            file.touch(0o600)
            file.write_bytes(self.svid.private_key.reveal() + self.svid.chain)
            context.load_cert_chain(file)
        return context


def handshake(client: Peer, server: Peer, directory: Path) -> tuple[str, bytes, bytes]:
    """Shake hands and send a word each way; gives the version and the certificates seen."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_context = client.context(ssl.PROTOCOL_TLS_CLIENT, directory)
    server_context = server.context(ssl.PROTOCOL_TLS_SERVER, directory)
    there = client_context.wrap_bio(to_client, to_server, server_hostname="8080")
    here = server_context.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [there, here]
    while unfinished:
        for side in list(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            unfinished.remove(side)
    for sender, receiver in ((there, here), (here, there)):
        sender.write(b"hello")
        assert receiver.read() == b"hello"
    seen_by_server, seen_by_client = here.getpeercert(True), there.getpeercert(True)
    assert seen_by_server
    assert seen_by_client
    return there.version() or "", seen_by_server, seen_by_client


@pytest.fixture
def now() -> dt.datetime:
    """OpenSSL looks at the clock itself."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def peer(
    authority: CertificateAuthority,
    spiffe_id: SpiffeId,
    now: dt.datetime,
    bundle: TrustBundle | None = None,
) -> Peer:
    key = new_key()
    chain = authority.sign(build_csr(key, spiffe_id), now=now, expected=spiffe_id).chain
    svid = X509Svid.assemble(key, chain, authority.trust_bundle, now=now, expected=spiffe_id)
    return Peer(svid, bundle or authority.trust_bundle)


def identity(der: bytes, authority: CertificateAuthority, now: dt.datetime) -> SpiffeId:
    pem = ssl.DER_cert_to_PEM_cert(der).encode() + authority.chain_pem
    return validate_svid_chain(pem, authority.trust_bundle, now=now)


def test_two_workloads_of_one_authority_prove_their_identities(
    authority: CertificateAuthority, now: dt.datetime, tmp_path: Path
) -> None:
    client, server = peer(authority, CLIENT, now), peer(authority, SERVER, now)
    version, seen_by_server, seen_by_client = handshake(client, server, tmp_path)
    assert version == "TLSv1.3"
    assert identity(seen_by_server, authority, now) == CLIENT
    assert identity(seen_by_client, authority, now) == SERVER


def test_workloads_below_an_intermediate_prove_their_identities(
    now: dt.datetime, tmp_path: Path, forge: Forge
) -> None:
    root = forge.make("root")
    middle = forge.make("middle", root)
    authority = CertificateAuthority.from_pem(
        trust_domain=TD, certificate=middle.pem, key=middle.key_pem, root=root.pem, now=now
    )
    client, server = peer(authority, CLIENT, now), peer(authority, SERVER, now)
    _, seen_by_server, seen_by_client = handshake(client, server, tmp_path)
    assert identity(seen_by_server, authority, now) == CLIENT
    assert identity(seen_by_client, authority, now) == SERVER


@pytest.mark.parametrize("impostor", ["client", "server"])
def test_a_certificate_of_another_authority_fails(
    authority: CertificateAuthority, now: dt.datetime, tmp_path: Path, impostor: str
) -> None:
    other = CertificateAuthority.self_signed(TD, now)
    issuers = {"client": authority, "server": authority, impostor: other}
    client = peer(issuers["client"], CLIENT, now, authority.trust_bundle)
    server = peer(issuers["server"], SERVER, now, authority.trust_bundle)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, tmp_path)


@pytest.mark.parametrize("late", ["client", "server"])
def test_an_expired_certificate_fails(now: dt.datetime, tmp_path: Path, late: str) -> None:
    yesterday = now - dt.timedelta(days=1)
    authority = CertificateAuthority.self_signed(TD, yesterday)
    signed = {"client": now, "server": now, late: yesterday}
    client = peer(authority, CLIENT, signed["client"])
    server = peer(authority, SERVER, signed["server"])
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(client, server, tmp_path)


def test_a_client_without_a_certificate_fails(
    authority: CertificateAuthority, now: dt.datetime, tmp_path: Path
) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        handshake(Peer(None, authority.trust_bundle), peer(authority, SERVER, now), tmp_path)
