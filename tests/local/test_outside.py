"""What a mesh leaves on its host, seen from outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.local import Outside, Settings, StateDirectory, _outside, _uplink

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("uplink", [True, False], ids=["with an uplink", "without one"])
def test_only_a_mesh_that_has_the_uplink_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, uplink: bool
) -> None:
    removed: list[bool] = []
    monkeypatch.setattr(_outside, "is_privileged", lambda: True)
    monkeypatch.setattr(_uplink, "remove", lambda: removed.append(True))
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    settings = Settings(paths=(), uplink=uplink)
    state.write_private(state.settings, msgspec.json.encode(settings))
    assert Outside(state).stop()
    assert bool(removed) is uplink
    assert not state.path.exists()
