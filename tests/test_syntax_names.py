"""What was probably meant by a name that nothing has."""

from __future__ import annotations

import pytest

from troth.syntax import choices, nearest

THERE = ("finance/payments", "finance/unready", "finance/web", "legacy/cron", "status")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("finance/paymnts", "finance/payments"),
        ("finnance/web", "finance/web"),
        ("statuss", "status"),
        ("Finance/PAYMENTS", "finance/payments"),
        ("legacy/c-ron", "legacy/cron"),
        ("finance/nobody", ""),
        ("legacy/payments", ""),
        ("", ""),
    ],
)
def test_a_name_nearly_right_is_suggested(name: str, meant: str) -> None:
    assert nearest(name, THERE) == (f"did you mean {meant}?" if meant else "")


def test_what_there_is_is_listed_with_or_without_a_suggestion() -> None:
    assert choices("web", ["web", "api", "api"]) == "did you mean web? There are: api, web"
    assert choices("zzz", ["web", "api"]) == "there are: api, web"
    assert choices("zzz", []) == "there are: none"
