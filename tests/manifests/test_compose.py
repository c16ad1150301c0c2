from __future__ import annotations

import pytest

from troth.manifests.compose import plain_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("yes", True),
        ("On", True),
        ("y", True),
        ("n", False),
        ("OFF", False),
        ("oFF", "oFF"),
        ("8080", 8080),
        ("-1", -1),
        ("+7", 7),
        ("010", 8),
        ("08", 8.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", 18446744073709551616.0),
        ("-9223372036854775809", -9223372036854775809.0),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        (".inf", ".inf"),
        (".", "."),
        ("-", "-"),
        ("_1", "_1"),
        ("0x", "0x"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "\N{ARABIC-INDIC DIGIT ONE}"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
    ],
)
def test_a_plain_scalar_means_what_it_means_to_kubernetes(text: str, value: object) -> None:
    result = plain_scalar(text)
    assert (type(result), result) == (type(value), value)
