"""Handshakes in memory: what is recorded, who is refused and how it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from troth.errors import InputError
from troth.handshake.certificates import ClientCredentials
from troth.handshake.handshake import HandshakeTrace
from troth.handshake.record import Kind, TlsRole, Verdict
from troth.handshake.steps import CertificateStatus, ConnectionStatus, build_report
from troth.handshake.wire import HEADER_SIZE, ContentType, HandshakeType, RecordSplitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.handshake.conftest import MemoryServer, World

    from troth.handshake.steps import TraceReport

    Converse = Callable[..., TraceReport]
    Serve = Callable[..., MemoryServer]

C, S = TlsRole.CLIENT, TlsRole.SERVER
SERVER_FLIGHT = [
    (C, Kind.CLIENT_HELLO),
    (S, Kind.SERVER_HELLO),
    (S, Kind.ENCRYPTED_EXTENSIONS),
    (S, Kind.CERTIFICATE_REQUEST),
    (S, Kind.CERTIFICATE),
    (C, Kind.TRUSTED),
    (S, Kind.CERTIFICATE_VERIFY),
    (S, Kind.FINISHED),
]


def order(report: TraceReport) -> list[tuple[TlsRole, Kind]]:
    return [(event.actor, event.kind) for event in report.handshake.events]


def test_a_good_handshake_has_the_order_of_rfc_8446(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve())

    assert order(report) == [
        *SERVER_FLIGHT,
        (C, Kind.CERTIFICATE),
        (C, Kind.CERTIFICATE_VERIFY),
        (C, Kind.FINISHED),
        (S, Kind.TRUSTED),
        (S, Kind.NEW_SESSION_TICKET),
        (S, Kind.NEW_SESSION_TICKET),
    ]
    assert report.verdict is Verdict.ACCEPTED
    assert report.handshake.mutual
    assert report.stopped_at == ""


def test_what_was_negotiated_is_read_from_the_wire(
    world: World, serve: Serve, converse: Converse
) -> None:
    handshake = converse(world.trace(world.web), serve()).handshake

    assert handshake.version == "TLS 1.3"
    assert handshake.cipher == "TLS_AES_256_GCM_SHA384"
    assert handshake.group == "X25519MLKEM768"
    assert handshake.alpn == "troth"
    (server,) = handshake.server_chain
    assert server.spiffe_id == str(world.payments_id)
    assert server.not_after == world.now + timedelta(hours=12)
    (client,) = handshake.client_chain
    assert client.spiffe_id == str(world.web_id)
    assert client.serial != server.serial


def test_only_the_hellos_are_in_the_clear(world: World, serve: Serve, converse: Converse) -> None:
    events = converse(world.trace(world.web), serve()).handshake.events

    clear = [event.kind for event in events if event.size and not event.encrypted]
    assert clear == [Kind.CLIENT_HELLO, Kind.SERVER_HELLO]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_bytes_may_arrive_in_pieces_of_any_size(
    world: World, serve: Serve, converse: Converse, piece: int
) -> None:
    whole = converse(world.trace(world.web), serve())
    split = converse(world.trace(world.web), serve(), piece)

    assert order(split) == order(whole)
    assert split.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("client", "alert"),
    [
        pytest.param(None, "certificate_required (116)", id="none"),
        pytest.param("expired_web", "certificate_expired (45)", id="expired"),
        pytest.param("foreign_web", "unknown_ca (48)", id="foreign authority"),
    ],
)
def test_a_client_that_the_server_refuses_learns_it_from_the_alert_after_its_finished(
    world: World, serve: Serve, converse: Converse, client: str | None, alert: str
) -> None:
    owner = getattr(world, client) if client else None
    report = converse(world.trace(owner), serve())

    assert report.verdict is Verdict.REFUSED
    assert report.reason == f"the server refused the client's certificate: {alert}"
    assert report.stopped_at == "server: check the client's certificate"
    assert order(report)[-3:] == [(C, Kind.FINISHED), (S, Kind.REFUSED), (S, Kind.ALERT)]
    assert not report.handshake.mutual


@pytest.mark.parametrize(
    ("server", "reason", "alert"),
    [
        pytest.param(
            "web",
            "it is for spiffe://cluster.local/ns/finance/sa/web,"
            " wanted spiffe://cluster.local/ns/finance/sa/payments",
            "certificate_unknown (46)",
            id="another identity",
        ),
        pytest.param(
            "expired_payments", "it has expired", "certificate_expired (45)", id="expired"
        ),
        pytest.param(
            "foreign_payments",
            "its issuer is not in the trust bundle",
            "unknown_ca (48)",
            id="foreign authority",
        ),
    ],
)
def test_a_server_that_the_client_refuses_never_sees_the_clients_certificate(  # noqa: PLR0917 - three fixtures, three columns
    world: World, serve: Serve, converse: Converse, server: str, reason: str, alert: str
) -> None:
    report = converse(world.trace(world.web), serve(getattr(world, server)))

    assert order(report) == [
        *SERVER_FLIGHT[:5],
        (C, Kind.REFUSED),
        (C, Kind.ALERT),
    ]
    assert report.verdict is Verdict.REFUSED
    assert report.reason == f"the client refused the server: {reason}"
    assert report.handshake.events[-1].detail == alert
    assert report.tracker[-1].server_certificate is CertificateStatus.REFUSED


def test_the_time_of_verification_is_the_callers(
    world: World, serve: Serve, converse: Converse
) -> None:
    trace = HandshakeTrace(
        server_name="8080",
        credentials=None,
        bundle=world.bundle,
        expected=world.payments_id,
        now=world.now + timedelta(hours=13),
    )
    assert converse(trace, serve()).reason == "the client refused the server: it has expired"


def test_a_server_without_tls_1_3_is_refused(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve(version=SSL.TLS1_2_VERSION))

    assert report.verdict is Verdict.REFUSED
    assert report.reason == "the server ended the connection: protocol_version (70)"


def test_a_tls_1_2_server_hello_is_refused_by_the_client(world: World) -> None:
    trace = world.trace(world.web)
    trace.start(0.0)
    hello = bytes.fromhex("0303" + "11" * 32 + "00" + "c02b" + "00")
    message = bytes([2]) + len(hello).to_bytes(3, "big") + hello
    trace.receive(b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message, 1.0)
    report = build_report(trace.record())

    assert report.handshake.version == "TLS 1.2"
    assert report.verdict is Verdict.REFUSED
    assert report.reason == "the client broke off: unsupported protocol"
    assert report.handshake.events[-1].detail == "protocol_version (70)"


def test_without_the_servers_answer_nothing_is_accepted(world: World, serve: Serve) -> None:
    trace, server = world.trace(world.web), serve()
    trace.receive(server.receive(trace.start(0.0)), 1.0)

    assert trace.finished
    assert not trace.settled
    trace.timed_out(2000.0)
    report = build_report(trace.record())
    assert report.verdict is Verdict.UNDECIDED
    assert report.reason == "no answer from the server within 2.0 s"
    assert report.tracker[-1].connection is ConnectionStatus.SERVER_AUTHENTICATED


@pytest.mark.parametrize("reset", [True, False])
def test_a_server_that_hangs_up_on_data_is_undecided_in_every_part_of_the_report(
    world: World, serve: Serve, *, reset: bool
) -> None:
    trace, server = world.trace(world.web), serve()
    trace.receive(server.receive(trace.start(0.0)), 1.0)
    trace.send(b"GET /", 2.0)
    trace.closed(3.0, reset=reset)
    report = build_report(trace.record())

    assert report.verdict is Verdict.UNDECIDED
    assert report.stopped_at == f"server: {'reset' if reset else 'close'} the connection"
    assert report.tracker[-1].connection is ConnectionStatus.CLOSED


def test_data_sent_before_the_server_saw_the_client_is_no_acceptance(
    world: World, serve: Serve
) -> None:
    trace, server = world.trace(world.web), serve()
    flight = server.receive(trace.start(0.0))
    early = server.seal(ContentType.APPLICATION_DATA, b"early", number=0)
    trace.receive(flight + early, 1.0)

    assert trace.received == len(b"early")
    assert not trace.settled


def test_a_key_update_is_followed(world: World, serve: Serve, converse: Converse) -> None:
    trace, server = world.trace(world.web), serve()
    converse(trace, server)
    update = bytes([24, 0, 0, 1, 0])
    tickets = 2  # records that the server has sent under these keys
    trace.receive(server.seal(ContentType.HANDSHAKE, update, number=tickets), 5.0)
    trace.receive(server.seal(ContentType.APPLICATION_DATA, b"new", number=0, updated=True), 6.0)
    record = trace.record()

    assert record.reply == "new"
    assert [event.kind for event in record.events[-2:]] == [Kind.KEY_UPDATE, Kind.APPLICATION_DATA]
    assert record.events[-1].size == 3


@pytest.mark.parametrize(
    "suite",
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
)
def test_every_message_is_readable_with_each_cipher_suite(
    world: World, serve: Serve, converse: Converse, suite: str
) -> None:
    report = converse(world.trace(world.web), serve(suite=suite.encode()))

    assert report.handshake.cipher == suite
    assert len(order(report)) == 14
    assert Kind.UNREADABLE not in {kind for _, kind in order(report)}


def test_a_server_may_ask_for_another_key_share(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve(curve=ec.SECP256R1()))

    assert order(report)[:4] == [
        (C, Kind.CLIENT_HELLO),
        (S, Kind.HELLO_RETRY_REQUEST),
        (C, Kind.CLIENT_HELLO),
        (S, Kind.SERVER_HELLO),
    ]
    assert report.verdict is Verdict.ACCEPTED
    assert report.handshake.group == "secp256r1"
    assert Kind.UNREADABLE not in {kind for _, kind in order(report)}


def test_a_flight_in_one_record_is_read_message_by_message(world: World, serve: Serve) -> None:
    trace, server = world.trace(world.web), serve()
    trace.receive(server.repack(server.receive(trace.start(0.0))), 1.0)

    assert order(build_report(trace.record()))[: len(SERVER_FLIGHT)] == SERVER_FLIGHT
    assert trace.finished


@pytest.mark.parametrize(
    ("spoil", "kind", "last_status"),
    [
        pytest.param(
            HandshakeType.CERTIFICATE_VERIFY,
            Kind.WRONG_CERTIFICATE_VERIFY,
            CertificateStatus.REFUSED,
            id="no proof of the key",
        ),
        pytest.param(
            HandshakeType.FINISHED,
            Kind.WRONG_FINISHED,
            CertificateStatus.VERIFIED,
            id="another transcript",
        ),
    ],
)
def test_a_servers_wrong_proof_ends_the_trace_and_authenticates_nobody(
    world: World,
    serve: Serve,
    spoil: HandshakeType,
    kind: Kind,
    last_status: CertificateStatus,
) -> None:
    trace, server = world.trace(world.web), serve()
    answer = trace.receive(server.repack(server.receive(trace.start(0.0)), spoil), 1.0)
    report = build_report(trace.record())

    assert len(answer) < 60  # an alert, and no certificate
    assert order(report)[-3:] == [(S, kind), (C, Kind.BROKE_OFF), (C, Kind.ALERT)]
    assert report.verdict is Verdict.REFUSED
    assert report.tracker[-1].server_certificate is last_status
    connections = {row.connection for row in report.tracker}
    assert ConnectionStatus.SERVER_AUTHENTICATED not in connections


@pytest.mark.parametrize(
    ("content", "body"),
    [
        pytest.param(ContentType.HANDSHAKE, bytes([4, 0, 0, 0]), id="session ticket"),
        pytest.param(ContentType.ALERT, bytes([2, 48]), id="alert"),
        pytest.param(ContentType.APPLICATION_DATA, b"x" * 40, id="application data"),
    ],
)
def test_what_somebody_on_the_path_puts_in_is_not_the_servers_answer(
    world: World, serve: Serve, content: ContentType, body: bytes
) -> None:
    trace, server = world.trace(world.web), serve()
    trace.receive(server.receive(trace.start(0.0)), 1.0)
    trace.receive(bytes([content, 3, 3]) + len(body).to_bytes(2, "big") + body, 2.0)
    report = build_report(trace.record())

    assert (S, Kind.UNREADABLE) in order(report)
    assert report.verdict is Verdict.REFUSED
    assert report.reason.startswith("the client broke off: ")


def test_a_broken_session_ticket_is_no_acceptance(world: World, serve: Serve) -> None:
    trace, server = world.trace(world.web), serve()
    trace.receive(server.receive(trace.start(0.0)), 1.0)
    trace.receive(server.seal(ContentType.HANDSHAKE, bytes([4, 0, 0, 0]), number=0), 2.0)

    assert build_report(trace.record()).verdict is Verdict.REFUSED


def test_the_client_sends_its_chain_and_no_root(
    world: World, serve: Serve, converse: Converse
) -> None:
    events = converse(world.trace(world.web), serve()).handshake.events

    (leaf,) = world.web.credentials.chain
    (size,) = [e.size for e in events if (e.actor, e.kind) == (C, Kind.CERTIFICATE)]
    framing = 4 + 1 + 3 + 3 + 2  # of message, context, list, entry and extensions
    assert size == len(leaf.public_bytes(Encoding.DER)) + framing


def test_a_server_that_asks_for_no_certificate_makes_nothing_mutual(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve(asks=False))

    assert report.verdict is Verdict.ACCEPTED
    assert not report.handshake.mutual
    assert report.reason == "the client showed no certificate, and the server asked for none"
    assert report.tracker[-1].client_certificate is CertificateStatus.NOT_SENT


def test_a_server_that_takes_clients_without_certificate_makes_nothing_mutual(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(None), serve(insists=False))

    assert report.verdict is Verdict.ACCEPTED
    assert not report.handshake.mutual
    assert report.tracker[-1].client_certificate is CertificateStatus.WITHHELD


def test_data_flows_both_ways_after_acceptance(
    world: World, serve: Serve, converse: Converse
) -> None:
    trace, server = world.trace(world.web), serve()
    converse(trace, server)
    server.receive(trace.send(b"ping", 10.0))
    trace.receive(server.send(b"\x1b[2Jpong"), 11.0)
    record = trace.record()

    assert server.heard == b"ping"
    assert (record.sent, record.received) == (4, 8)
    assert record.reply == "\\x1b[2Jpong"


def test_no_data_goes_to_a_server_before_the_handshake_is_over(world: World) -> None:
    trace = world.trace(world.web)
    trace.start(0.0)

    assert trace.send(b"secret", 1.0) == b""
    assert trace.record().sent == 0


def test_either_side_can_end_politely(world: World, serve: Serve, converse: Converse) -> None:
    ours, theirs = world.trace(world.web), world.trace(world.web)
    converse(ours, serve())
    server = serve()
    converse(theirs, server)

    assert ours.close(9.0)
    theirs.receive(server.goodbye(), 9.0)
    for trace, side in ((ours, C), (theirs, S)):
        report = build_report(trace.record())
        assert order(report)[-1] == (side, Kind.CLOSE_NOTIFY)
        assert report.verdict is Verdict.ACCEPTED
        assert report.tracker[-1].connection is ConnectionStatus.CLOSED


@pytest.mark.parametrize(
    ("reset", "word"), [(False, "closed"), (True, "reset")], ids=["closed", "reset"]
)
def test_a_server_that_goes_away_at_once_has_refused(
    world: World, word: str, *, reset: bool
) -> None:
    trace = world.trace(world.web)
    trace.start(0.0)
    trace.closed(1.0, reset=reset)
    report = build_report(trace.record())

    assert report.verdict is Verdict.REFUSED
    assert (
        report.reason == f"the server {word} the connection during the handshake, without an alert"
    )
    assert report.tracker[-1].connection is ConnectionStatus.REFUSED


def test_a_server_that_speaks_no_tls_is_quoted_harmlessly(world: World) -> None:
    trace = world.trace(world.web)
    trace.start(0.0)
    trace.receive(b"HTTP/1.1 400 Bad Request\r\n\x1b]0;", 1.0)
    report = build_report(trace.record())

    assert report.verdict is Verdict.REFUSED
    assert report.reason == "what the server says is not TLS"
    assert report.steps[-1].result == "it says: HTTP/1.1 400 Bad Request\\r\\n\\x1b]0;"


@given(chunks=st.lists(st.binary(max_size=80), max_size=6), tls=st.booleans())
def test_any_bytes_from_a_server_end_in_a_report(
    world: World, chunks: list[bytes], *, tls: bool
) -> None:
    trace = world.trace(world.web)
    trace.start(0.0)
    for chunk in chunks:
        header = b"\x16\x03\x03" + len(chunk).to_bytes(2, "big") if tls else b""
        trace.receive(header + chunk, 1.0)
    trace.closed(2.0)

    assert build_report(trace.record()).verdict is Verdict.REFUSED


@given(place=st.integers(0, 9999), change=st.integers(1, 255))
def test_a_server_flight_with_one_byte_changed_is_never_accepted(
    world: World, serve: Serve, place: int, change: int
) -> None:
    trace, server = world.trace(world.web), serve()
    records = [bytearray(r) for r in RecordSplitter().feed(server.receive(trace.start(0.0)))]
    # Headers are left alone: the version in those of plaintext records counts for nothing (5.1).
    payload = [(record, at) for record in records for at in range(HEADER_SIZE, len(record))]
    record, at = payload[place * len(payload) // 10_000]  # lengths vary with the signature's
    record[at] ^= change
    flight = b"".join(records)
    answer = trace.receive(flight, 1.0)
    if trace.finished:
        trace.receive(server.receive(answer), 2.0)
    trace.closed(3.0)

    assert build_report(trace.record()).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("chain", "key", "found"),
    [
        pytest.param(b"", "web", "chain: holds no readable certificate", id="no certificate"),
        pytest.param("web", b"nonsense", "key: is no EC or RSA private key", id="no key"),
        pytest.param("web", "payments", "key: is not the leaf", id="another's key"),
    ],
)
def test_credentials_that_do_not_fit_are_bad_input(
    world: World, chain: str | bytes, key: str | bytes, found: str
) -> None:
    with pytest.raises(InputError, match=found):
        ClientCredentials(
            chain=getattr(world, chain).chain if isinstance(chain, str) else chain,
            key=getattr(world, key).key if isinstance(key, str) else key,
        )


def test_credentials_show_no_key(world: World) -> None:
    assert repr(world.web.credentials) == f"ClientCredentials({world.web_id}, key hidden)"


@pytest.mark.parametrize("name", ["", "ü", "x" * 256], ids=["empty", "not ASCII", "too long"])
def test_a_server_name_that_cannot_be_sent_is_bad_input(world: World, name: str) -> None:
    with pytest.raises(InputError, match="server name"):
        HandshakeTrace(
            server_name=name,
            credentials=None,
            bundle=world.bundle,
            expected=None,
            now=world.now,
        )


def test_a_bundle_without_certificates_is_bad_input(world: World) -> None:
    with pytest.raises(InputError, match="trust bundle"):
        HandshakeTrace(
            server_name="8080", credentials=None, bundle=b"", expected=None, now=world.now
        )
