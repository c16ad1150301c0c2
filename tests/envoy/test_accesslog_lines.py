"""Lines that a real Envoy 1.40 wrote, and lines that nobody should write."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.envoy.accesslog import LOG_FORMAT, parse, port_of_server_name
from troth.traffic.connection import Connection, ConnectionReport, Outcome, Party, Reason, Side

CLIENT = "spiffe://cluster.local/ns/default/sa/client"
SERVER = "spiffe://cluster.local/ns/default/sa/server"
FAILED = "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:"
X509 = FAILED + "verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_0:_"

TUNNEL: dict[str, Any] = {
    "chain": "tunnel",
    "cipher": "TLS_AES_128_GCM_SHA256",
    "dst": "10.77.0.3:15007",
    "flags": "-",
    "group": "X25519MLKEM768",
    "ms": 1,
    "peer": CLIENT,
    "pod": "uid",
    "role": "tunnel-in",
    "sni": "8080",
    "src": "10.77.0.2:41070",
    "t": "2026-11-24T06:24:21.146Z",
    "tls": "TLSv1.3",
    "type": "NotSet",
}
CONNECTED = {
    "type": "TcpUpstreamConnected",
    "host": "10.77.0.3:8080",
    "up": "127.0.0.6:46744",
}
PLAIN: dict[str, Any] = {
    "dst": "10.77.0.3:8080",
    "flags": "NR",
    "ms": 0,
    "pod": "uid",
    "role": "plain-in",
    "src": "10.77.0.4:56780",
    "t": "2026-11-24T06:24:22.825Z",
    "type": "NotSet",
}
OUTBOUND = PLAIN | {"role": "outbound", "flags": "UF,URX", "host": "10.77.0.3:15007"}


def line(fields: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (fields | changes).items() if v is not None}).encode()


def event(fields: dict[str, Any], **changes: Any) -> Connection:
    found = parse(line(fields, **changes))
    assert found is not None
    return found.connection


ENDED = TUNNEL | CONNECTED | {"type": "NotSet", "ms": 4081}
GIVEN_UP = "TLS_error:|{}:system_library:OPENSSL_internal:{}:TLS_error_end"


def test_an_accepted_tunnel_is_read_whole() -> None:
    assert parse(line(TUNNEL | CONNECTED)) == ConnectionReport(
        pod="uid",
        connection=Connection(
            time=dt.datetime(2026, 11, 24, 6, 24, 21, 146000, tzinfo=dt.UTC),
            outcome=Outcome.ACCEPTED,
            reason=Reason.NONE,
            side=Side.SERVER,
            source=Party(address="10.77.0.2", port=41070),
            destination=Party(address="10.77.0.3", port=8080),
            peer=CLIENT,
            tls_version="TLSv1.3",
            tls_cipher="TLS_AES_128_GCM_SHA256",
            tls_group="X25519MLKEM768",
            duration_ms=1,
        ),
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (33554542, "Connection timed out"),
        (33554545, "No route to host"),
        (33554533, "Network is unreachable"),
    ],
)
def test_a_client_that_vanished_is_told_of_when_it_is_given_up(code: int, words: str) -> None:
    found = event(ENDED, dfail=GIVEN_UP.format(code, words.replace(" ", "_")))
    assert (found.outcome, found.reason) == (Outcome.FAILED, Reason.PEER_VANISHED)
    assert (found.peer, found.destination.port, found.detail) == (CLIENT, 8080, words)
    assert found.time == dt.datetime(2026, 11, 24, 6, 24, 25, 227000, tzinfo=dt.UTC)
    assert found.duration_ms == 4081


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dfail": GIVEN_UP.format(33554536, "Connection_reset_by_peer")},
        {"dfail": GIVEN_UP.format(33554464, "Broken_pipe")},
    ],
)
def test_any_other_end_of_what_was_accepted_is_no_event(changes: dict[str, str]) -> None:
    assert parse(line(ENDED, **changes)) is None


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        (
            {"dfail": "TLS_error:|268435648:x:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer_did_not"},
            Outcome.REFUSED,
            Reason.NO_CLIENT_CERTIFICATE,
        ),
        (
            {"dfail": X509 + "unable_to_get_local_issuer_certificate:TLS_error_end"},
            Outcome.REFUSED,
            Reason.UNKNOWN_AUTHORITY,
        ),
        (
            {"dfail": X509 + "certificate_has_expired:TLS_error_end"},
            Outcome.REFUSED,
            Reason.CERTIFICATE_EXPIRED,
        ),
        (
            {"dfail": X509 + "certificate_is_not_yet_valid:TLS_error_end"},
            Outcome.REFUSED,
            Reason.CERTIFICATE_NOT_YET_VALID,
        ),
        (
            {"dfail": X509 + "unsuitable_certificate_purpose:TLS_error_end"},
            Outcome.REFUSED,
            Reason.CERTIFICATE_INVALID,
        ),
        (
            {"dfail": FAILED + "verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[x]"},
            Outcome.REFUSED,
            Reason.WRONG_CLIENT_IDENTITY,
        ),
        (
            {"dfail": "TLS_error:|268436504:SSL_routines:x:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"},
            Outcome.REFUSED,
            Reason.REFUSED_BY_PEER,
        ),
        (
            {"dfail": "TLS_error:|268435696:SSL_routines:x:UNSUPPORTED_PROTOCOL:TLS_error_end"},
            Outcome.REFUSED,
            Reason.TLS_PARAMETERS,
        ),
        (
            {"dfail": "TLS_error:|268435612:SSL_routines:x:HTTP_REQUEST:TLS_error_end"},
            Outcome.REFUSED,
            Reason.NOT_TLS,
        ),
        (
            {
                "dfail": "TLS_error:|268435568:SSL_routines:x:BAD_PACKET_LENGTH|268435595:"
                "SSL_routines:x:DECRYPTION_FAILED_OR_BAD_RECORD_MAC:TLS_error_end"
            },
            Outcome.REFUSED,
            Reason.HANDSHAKE_FAILED,
        ),
        (
            {"dfail": "TLS_error:|33554536:system_library:x:Connection_reset_by_peer"},
            Outcome.REFUSED,
            Reason.NO_HANDSHAKE,
        ),
        (
            {"dfail": "TLS_error:Secret_is_not_supplied_by_SDS"},
            Outcome.FAILED,
            Reason.NO_CERTIFICATE_YET,
        ),
        ({"chain": None, "cipher": None}, Outcome.REFUSED, Reason.NO_HANDSHAKE),
        ({"chain": None, "flags": "NR"}, Outcome.REFUSED, Reason.BAD_SERVER_NAME),
        ({"chain": None, "flags": "NR", "sni": None}, Outcome.REFUSED, Reason.BAD_SERVER_NAME),
        (
            {"flags": "UF", "dfail": X509 + "certificate_has_expired"},
            Outcome.REFUSED,
            Reason.CERTIFICATE_EXPIRED,
        ),
        (
            {"term": "transport socket timeout was reached"},
            Outcome.REFUSED,
            Reason.NO_HANDSHAKE,
        ),
        ({"term": "something_new"}, Outcome.REFUSED, Reason.OTHER),
        ({"flags": "XX"}, Outcome.REFUSED, Reason.OTHER),
    ],
)
def test_a_tunnel_that_is_not_established_has_a_reason_and_no_peer(
    changes: dict[str, Any], outcome: Outcome, reason: Reason
) -> None:
    found = event(TUNNEL, **changes)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert (found.peer, found.claimed_peer) == (None, CLIENT)


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        (
            {"flags": "UF,URX", "ufail": "delayed_connect_error:_Connection_refused"},
            Outcome.FAILED,
            Reason.APP_UNREACHABLE,
        ),
        ({"flags": "UH"}, Outcome.FAILED, Reason.APP_UNREACHABLE),
        ({"flags": "UH", "sni": "web"}, Outcome.REFUSED, Reason.BAD_SERVER_NAME),
        ({"flags": "UH", "sni": None}, Outcome.REFUSED, Reason.BAD_SERVER_NAME),
        ({"flags": "NC"}, Outcome.FAILED, Reason.NOT_CONFIGURED),
    ],
)
def test_a_peer_is_verified_when_only_what_follows_the_handshake_failed(
    changes: dict[str, Any], outcome: Outcome, reason: Reason
) -> None:
    found = event(TUNNEL, **changes)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert (found.peer, found.claimed_peer) == (CLIENT, None)


@pytest.mark.parametrize(
    ("flags", "outcome", "reason"),
    [
        ("NR", Outcome.REFUSED, Reason.PLAINTEXT_TO_STRICT),
        ("UF,URX", Outcome.FAILED, Reason.APP_UNREACHABLE),
        ("UH", Outcome.FAILED, Reason.APP_UNREACHABLE),
    ],
)
def test_plaintext_that_does_not_reach_the_app_has_a_reason(
    flags: str, outcome: Outcome, reason: Reason
) -> None:
    found = event(PLAIN, flags=flags)
    assert (found.outcome, found.reason, found.destination.port) == (outcome, reason, 8080)


def test_plaintext_that_passes_is_an_event() -> None:
    found = event(PLAIN | CONNECTED, flags="-")
    assert (found.outcome, found.reason, found.peer) == (Outcome.PLAINTEXT, Reason.NONE, None)


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        (
            {"ufail": "TLS_error:|268435703:SSL_routines:x:WRONG_VERSION_NUMBER:TLS_error_end"},
            Outcome.REFUSED,
            Reason.NOT_TLS,
        ),
        ({"ufail": "delayed_connect_error:_Refused"}, Outcome.FAILED, Reason.UNREACHABLE),
        ({"flags": "UH"}, Outcome.FAILED, Reason.NO_ENDPOINTS),
        ({"flags": "NC"}, Outcome.FAILED, Reason.NOT_CONFIGURED),
        ({"ufail": X509 + "certificate_has_expired"}, Outcome.REFUSED, Reason.CERTIFICATE_EXPIRED),
        (
            {"ufail": FAILED + "verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[]"},
            Outcome.REFUSED,
            Reason.WRONG_SERVER_IDENTITY,
        ),
    ],
)
def test_a_client_reports_what_does_not_get_through(
    changes: dict[str, Any], outcome: Outcome, reason: Reason
) -> None:
    found = event(OUTBOUND, **changes)
    assert (found.side, found.outcome, found.reason) == (Side.CLIENT, outcome, reason)
    assert found.peer is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (OUTBOUND | {"dst": "127.0.0.1:15001"}, Reason.RESERVED_PORT),
        (OUTBOUND | {"dst": "[::1]:15001"}, Reason.RESERVED_PORT),
        (OUTBOUND, Reason.NOT_CONFIGURED),
        (OUTBOUND | {"dst": "envoy://outbound/x"}, Reason.NOT_CONFIGURED),
        (PLAIN | {"dst": "10.77.0.3:15006"}, Reason.RESERVED_PORT),
        (PLAIN, Reason.PLAINTEXT_TO_STRICT),
    ],
    ids=["out", "out IPv6", "elsewhere", "no address", "in", "another port"],
)
def test_who_dials_a_port_of_troths_own_is_told_so(fields: dict[str, Any], reason: Reason) -> None:
    assert event(fields, flags="NR").reason is reason


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "[::1]:8080"])
def test_what_came_from_outside_for_loopback_is_not_taken_for_a_matter_of_policy(
    address: str,
) -> None:
    found = event(PLAIN, flags="NR", dst=address)
    assert (found.outcome, found.reason) == (Outcome.REFUSED, Reason.OTHER)
    assert found.detail == "came from outside for loopback"


def test_a_server_with_another_identity_is_named_as_a_claim() -> None:
    words = (
        FAILED + "verify_cert_failed:_verify_SAN_list,_expected_SANs:_"
        f"[spiffe://cluster.local/ns/default/sa/other],_certificate_SANs:_[{SERVER}]:TLS_error_end"
    )
    found = event(OUTBOUND, ufail=words)
    assert (found.reason, found.detail) == (Reason.WRONG_SERVER_IDENTITY, words)
    assert (found.peer, found.claimed_peer) == (None, SERVER)


def test_a_name_of_the_peers_choice_does_not_choose_the_reason() -> None:
    lie = "spiffe://x/PEER_DID_NOT_RETURN_A_CERTIFICATE-certificate_has_expired"
    words = FAILED + f"verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[{lie}]:TLS_error_end"
    assert event(TUNNEL, dfail=words).reason is Reason.WRONG_CLIENT_IDENTITY


@pytest.mark.parametrize(
    "peer",
    [f"{CLIENT},{SERVER}", "https://example.com", "spiffe://", "", "-", None],
    ids=["two names", "no SPIFFE ID", "empty ID", "empty", "dash", "absent"],
)
def test_a_peer_is_exactly_one_spiffe_id_or_nobody(peer: str | None) -> None:
    found = event(TUNNEL | CONNECTED, peer=peer)
    assert (found.peer, found.claimed_peer) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        # A reset at the end leaves a failure on what had been accepted.
        TUNNEL | CONNECTED | {"type": "NotSet", "dfail": "TLS_error:|1:x:Connection_reset_by_peer"},
        PLAIN | {"flags": "-"},
        OUTBOUND | {"flags": "-"},
        OUTBOUND | CONNECTED | {"flags": "-"},
    ],
    ids=["ended", "plain client left", "outbound client left", "outbound connected"],
)
def test_a_line_without_a_decision_is_no_event(fields: dict[str, Any]) -> None:
    assert parse(line(fields)) is None


def test_what_names_no_port_to_the_tunnel_is_told_from_what_names_a_bad_one() -> None:
    assert event(TUNNEL, flags="NR", sni="web").detail == "server name 'web'"
    assert event(TUNNEL, flags="NR", sni=None).detail.startswith("plaintext, or TLS")


def test_the_port_that_envoy_went_to_counts_more_than_the_name_asked_for() -> None:
    assert event(TUNNEL | CONNECTED, sni="08080").destination.port == 8080
    assert event(TUNNEL, flags="UH", sni="web").destination.port == 15007


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[fd00::1]:80", ("fd00::1", 80)),
        ("[::ffff:10.0.0.1]:80", ("10.0.0.1", 80)),
        ("envoy://outbound/10.77.0.3:9000", ("", 0)),
        ("/run/socket", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_an_address_is_read(text: str, expected: tuple[str, int]) -> None:
    found = event(PLAIN, src=text)
    assert (found.source.address, found.source.port) == expected


@pytest.mark.parametrize(
    ("name", "port"),
    [("1", 1), ("8080", 8080), ("65535", 65535)]
    + [(name, None) for name in ("0", "080", "65536", "web", "", "+80", " 80", "80\n", "\u0668")],
)
def test_a_server_name_is_a_port_in_its_one_spelling(name: str, port: int | None) -> None:
    assert port_of_server_name(name) == port


def test_details_can_be_shown_and_are_bounded() -> None:
    found = event(TUNNEL, term="\x1b[2J" + "x" * 5000)
    assert found.detail.isprintable()
    assert len(found.detail) == 1024


def test_a_guessed_tls_version_is_not_shown() -> None:
    found = event(TUNNEL, cipher=None, tls="TLSv1.2", dfail="TLS_error:|1:x:HTTP_REQUEST")
    assert (found.tls_version, found.tls_group) == ("", "")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        line(PLAIN, role="other"),
        line(PLAIN, t="yesterday"),
        line(PLAIN, src=None),
        line(PLAIN, ms="many"),
    ],
    ids=["empty", "cut", "no object", "no utf-8", "role", "time", "no source", "milliseconds"],
)
def test_what_is_no_line_of_ours_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="no access log line"):
        parse(bad)


WORDS = (
    st.none() | st.text() | st.sampled_from(["NR", "UF,URX", X509, "spiffe://a/b", "1:2", "[::]:1"])
)


@given(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["tunnel-in", "plain-in", "outbound"]),
            "src": st.text(),
            "dst": st.text(),
        },
        optional={key: WORDS for key in LOG_FORMAT if key not in {"t", "src", "dst", "ms"}},
    )
)
def test_any_words_make_an_event_or_none_and_never_an_identity_out_of_a_claim(
    fields: dict[str, Any],
) -> None:
    found = parse(line(fields, t=PLAIN["t"]))
    if (
        found is not None
        and found.connection.outcome is Outcome.REFUSED
        and fields.get("dfail") not in {None, "", "-"}
    ):
        assert found.connection.peer is None


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no access log line"):
        parse(data)


def test_a_connection_that_is_about_to_be_reset_is_reported_at_its_end() -> None:
    failed = TUNNEL | {"flags": "UF", "host": "/run/troth/reset.sock"}
    assert parse(line(failed, type="TcpUpstreamConnected")) is None
    assert event(failed).reason is Reason.APP_UNREACHABLE
