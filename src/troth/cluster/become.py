"""From the process that read the command line to the node agent's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from troth.cluster.settings import NodeSettings


def become_node(settings: NodeSettings) -> NoReturn:
    """Turn this process into a node agent, which runs until SIGTERM."""
    told = msgspec.json.encode(settings, enc_hook=_as_text).decode()
    # -P: what lies in the working directory is no module.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "troth.cluster", told])  # noqa: S606 - a program and its arguments, no shell


def settings_told(arguments: list[str]) -> NodeSettings:
    """What `become_node` told the process that has these arguments."""
    (told,) = arguments
    return msgspec.json.decode(told, type=NodeSettings, dec_hook=_from_text)


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _from_text(kind: type, text: Any) -> Any:
    if kind is Path:
        return Path(text)
    raise NotImplementedError
