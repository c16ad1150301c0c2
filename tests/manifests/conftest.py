from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from troth.manifests.collect import Manifests, collect
from troth.manifests.yaml import read_documents

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def read() -> Callable[..., Manifests]:
    """What one or several files (``FILE=TEXT``) say."""

    def manifests(text: str = "", **files: str) -> Manifests:
        documents, problems = [], []
        for name, content in ({"f": text} if text else files).items():
            good, bad = read_documents(textwrap.dedent(content), f"{name}.yaml")
            documents += good
            problems += bad
        return collect(documents, problems)

    return manifests


@pytest.fixture
def problems(read: Callable[..., Manifests]) -> Callable[[str], list[str]]:
    """The problems of one object, without file and object."""

    def lines(text: str) -> list[str]:
        return [f"{each.path}: {each.found}; {each.wanted}" for each in read(text).problems]

    return lines
