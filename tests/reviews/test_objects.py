"""Which questions there are."""

from __future__ import annotations

import msgspec
import pytest

from troth.reviews.objects import ReviewSpec

TRACE = {"nodeName": "a", "question": "Trace", "from": "web", "to": "shop/api", "port": 80}


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param({}, id="by default"),
        pytest.param({"credentials": "own"}, id="its own"),
        pytest.param({"credentials": "none"}, id="none"),
    ],
)
def test_only_a_forged_certificate_claims_an_identity(credentials: dict[str, str]) -> None:
    asked = TRACE | credentials | {"claim": "bank/vault"}
    with pytest.raises(msgspec.ValidationError, match="claim belongs to credentials foreign-ca"):
        msgspec.convert(asked, ReviewSpec)
    forged = msgspec.convert(asked | {"credentials": "foreign-ca"}, ReviewSpec)
    assert forged.claim == "bank/vault"
