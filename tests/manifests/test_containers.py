from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.manifests.containers import expand


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "a"),
        ("x-$(A)-$(B)-x", "x-a-$(A)-x"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$$$$(A)", "$$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$()", "$()"),
        ("$(A", "$(A"),
        ("$($(A))", "$($(A))"),
        ("$A ${A}", "$A ${A}"),
        ("costs 5$", "costs 5$"),
        ("$(EMPTY)", ""),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "a", "B": "$(A)", "EMPTY": ""}) == expanded


@given(st.text("$()Ab"))
def test_an_escaped_text_comes_out_as_it_was(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "x", "": "y", "b": "z"}) == text
