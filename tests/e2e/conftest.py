"""Machines for the end-to-end tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import Host

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host() -> Iterator[Host]:
    """A machine of the test's own."""
    with Host() as machine:
        yield machine


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    """A machine for all tests of a module."""
    with Host() as machine:
        yield machine
