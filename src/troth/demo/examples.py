"""Where the example manifests are: in an installed package, or beside the sources."""

from __future__ import annotations

from pathlib import Path

from troth.errors import EnvironmentLackError

_HERE = Path(__file__).resolve().parent


def examples() -> Path:
    """The directory ``examples``.

    Raises:
        EnvironmentLackError: It is not where it was installed.
    """
    for candidate in (_HERE / "examples", _HERE.parents[2] / "examples"):
        if (candidate / "finance").is_dir():
            return candidate
    raise EnvironmentLackError("troth's example manifests are missing", "install troth again")
