"""What a mesh leaves on its host, seen from outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.local import Outside, StateDirectory, _outside, _uplink

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("uplink", [_uplink.Uplink(3), None], ids=["with an uplink", "without"])
def test_only_the_uplink_that_a_mesh_has_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, uplink: _uplink.Uplink | None
) -> None:
    removed: list[_uplink.Uplink] = []
    monkeypatch.setattr(_outside, "is_privileged", lambda: True)
    monkeypatch.setattr(_uplink, "remove", removed.append)
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    if uplink:
        state.write_private(state.uplink, msgspec.json.encode(uplink))
    assert Outside(state).stop()
    assert removed == ([uplink] if uplink else [])
    assert not state.path.exists()
