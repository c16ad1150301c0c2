"""The command line of `troth trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.cli.app import run
from troth.cli.trace import full_destination, read_question
from troth.connect.report import Credentials, TraceQuestion
from troth.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.mark.parametrize(
    ("destination", "flags", "claim", "expected"),
    [
        pytest.param("finance/payments:8080", [], None, {}, id="name"),
        pytest.param("10.0.0.2:1", [], None, {"destination": "10.0.0.2", "port": 1}, id="IPv4"),
        pytest.param("[fd00::2]:8080", [], None, {"destination": "fd00::2"}, id="IPv6"),
        pytest.param("finance/payments:65535", [], None, {"port": 65535}, id="the last port"),
        pytest.param(
            "finance/payments:8080", ["--plaintext"], None, {"past_tunnel": True}, id="plaintext"
        ),
        pytest.param(
            "finance/payments:8080",
            ["--no-certificate"],
            None,
            {"credentials": Credentials.NONE},
            id="no certificate",
        ),
        pytest.param(
            "finance/payments:8080",
            ["--expired"],
            "finance/cart",
            {"credentials": Credentials.EXPIRED, "claim": "finance/cart"},
            id="expired",
        ),
        pytest.param(
            "finance/payments:8080",
            ["--foreign-ca"],
            None,
            {"credentials": Credentials.FOREIGN_CA},
            id="foreign CA",
        ),
    ],
)
def test_a_command_line_is_a_question(
    destination: str, flags: list[str], claim: str | None, expected: Mapping[str, Any]
) -> None:
    usual = TraceQuestion(source="finance/web", destination="finance/payments", port=8080)
    question = read_question("finance/web", destination, flags, claim=claim)
    assert question == msgspec.structs.replace(usual, **expected)


@pytest.mark.parametrize(
    ("arguments", "complaints"),
    [
        pytest.param(
            ["finance/web", "finance/payments"],
            ["TO:PORT: 'finance/payments' has no port; append one, as in finance/payments:8080"],
            id="no port",
        ),
        pytest.param(
            ["finance/web", "finance/payments:0"],
            ["TO:PORT: '0' in 'finance/payments:0' is not a port; give a number from 1 to 65535"],
            id="port 0",
        ),
        pytest.param(
            ["finance/web", "finance/payments:65536"],
            ["'65536' in 'finance/payments:65536' is not a port"],
            id="beyond the last port",
        ),
        pytest.param(
            ["finance/web", "finance/payments:6553500"], ["is not a port"], id="far beyond"
        ),
        pytest.param(["finance/web", "finance/payments:http"], ["is not a port"], id="a name"),
        pytest.param(["finance/web", "finance/payments:٨"], ["is not a port"], id="another digit"),
        pytest.param(["finance/web", "finance/payments:"], ["is not a port"], id="an empty port"),
        pytest.param(["finance/web", ":80"], ["':80' has no port"], id="an empty name"),
        pytest.param(
            ["web", "finance/payments:80"],
            ["FROM: 'web' is no NAMESPACE/NAME; name a pod or a Deployment so"],
            id="no namespace",
        ),
        pytest.param(
            ["a/b/c", "finance/payments:80"], ["'a/b/c' is no NAMESPACE/NAME"], id="two slashes"
        ),
        pytest.param(
            ["finance/web", "finance/payments:80", "--expired", "--foreign-ca"],
            ["--expired and --foreign-ca: are different connections; give one of them"],
            id="two kinds",
        ),
        pytest.param(
            ["finance/web", "finance/payments:80", "--claim", "finance/cart"],
            ["--claim: only a forged certificate claims an identity; give --expired or"],
            id="a claim without a forgery",
        ),
        pytest.param(
            ["web", "finance/payments", "--plaintext", "--expired", "--claim", "x"],
            ["FROM: ", "TO:PORT: ", "--plaintext and --expired: ", "--claim: 'x'"],
            id="everything at once",
        ),
        pytest.param(["finance/web"], ["Missing argument"], id="no TO"),
        pytest.param(
            ["finance/web", "finance/payments:80", "--self-signed"],
            ["No such option"],
            id="an unknown kind",
        ),
    ],
)
def test_wrong_use_is_told_at_once_and_ends_with_2(
    arguments: list[str], complaints: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for complaint in complaints:
        assert complaint in captured.err
    assert captured.err.count("error: ") == len(complaints)


@pytest.mark.usefixtures("no_mesh")
def test_without_a_mesh_it_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "finance/web", "finance/payments:8080"]) == 1
    assert "start one with: troth up -d PATH" in capsys.readouterr().err


@given(source=st.text(), destination=st.text(), claim=st.none() | st.text())
def test_whatever_is_asked_is_a_question_or_wrong_use(
    source: str, destination: str, claim: str | None
) -> None:
    try:
        question = read_question(source, destination, ["--expired"], claim=claim)
    except InputError:
        return
    assert 1 <= question.port <= 65535
    assert "/" in question.source
    assert question.destination


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("payments:8080", "finance/payments:8080"),
        ("shop/web:80", "shop/web:80"),
        ("10.0.0.2:80", "10.0.0.2:80"),
        ("[fd00::2]:80", "[fd00::2]:80"),
        ("payments", "payments"),
    ],
)
def test_in_a_cluster_a_destination_may_be_named_without_its_namespace(
    given: str, full: str
) -> None:
    assert full_destination(given, "finance") == full
