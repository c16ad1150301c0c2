"""Messages opened to their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.handshake.messages import open_message
from troth.handshake.record import Kind, TlsRole
from troth.handshake.wire import ContentType, HandshakeType, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.handshake.conftest import MemoryServer, World

    from troth.handshake.steps import TraceReport

    Converse = Callable[..., TraceReport]
    Serve = Callable[..., MemoryServer]

C, S = TlsRole.CLIENT, TlsRole.SERVER


@pytest.fixture
def opened(
    world: World, serve: Serve, converse: Converse
) -> dict[tuple[TlsRole, Kind], dict[str, str]]:
    """The fields of each message of a good handshake."""
    report = converse(world.trace(world.web), serve())
    return {
        (event.actor, event.kind): {each.name: each.value for each in event.fields}
        for event in report.handshake.events
    }


Opened = dict[tuple[TlsRole, Kind], dict[str, str]]


def test_a_client_hello_names_what_is_offered_and_what_is_wanted(opened: Opened) -> None:
    hello = opened[C, Kind.CLIENT_HELLO]
    assert hello["server_name"] == "8080"
    assert hello["supported_versions"] == "TLS 1.3"
    assert "TLS_AES_256_GCM_SHA384" in hello["cipher_suites"]
    assert "X25519" in hello["key_share"]


def test_a_server_hello_names_what_is_chosen(opened: Opened) -> None:
    hello = opened[S, Kind.SERVER_HELLO]
    assert hello["supported_versions"] == "TLS 1.3"
    assert hello["cipher_suite"] == "TLS_AES_256_GCM_SHA384"


def test_a_certificate_opens_to_name_issuer_and_dates(world: World, opened: Opened) -> None:
    shown = opened[C, Kind.CERTIFICATE]
    assert shown["certificate_list[0].subjectAltName"] == str(world.web_id)
    assert shown["certificate_list[0].publicKey"] == "secp256r1"
    assert " to " in shown["certificate_list[0].validity"]


def test_a_proof_names_its_algorithm(opened: Opened) -> None:
    assert opened[C, Kind.CERTIFICATE_VERIFY]["algorithm"] == "ecdsa_secp256r1_sha256"
    assert "ecdsa_secp256r1_sha256" in opened[S, Kind.CERTIFICATE_REQUEST]["signature_algorithms"]


def test_an_alert_names_what_is_wrong() -> None:
    unit = Unit(content=ContentType.ALERT, body=bytes([2, 48]), size=2, encrypted=True)
    assert [each.value for each in open_message(unit)] == ["fatal", "unknown_ca (48)"]


@given(st.sampled_from(HandshakeType), st.binary(max_size=200))
def test_whatever_stands_in_a_message_only_what_can_be_read_is_told(
    message: HandshakeType, body: bytes
) -> None:
    unit = Unit(
        content=ContentType.HANDSHAKE, message=message, body=body, size=len(body), encrypted=True
    )
    assert all(each.value.isprintable() for each in open_message(unit))
