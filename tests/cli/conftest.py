from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def no_mesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state directory in which no mesh runs."""
    monkeypatch.setenv("TROTH_STATE_DIR", str(tmp_path / "state"))
