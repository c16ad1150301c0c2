"""Where a node agent's files are."""

from __future__ import annotations

from pathlib import Path

import msgspec


class NodePaths(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's sockets and files, all in directories that are its own."""

    ads: Path
    admin: Path
    worker: Path
    bootstrap: Path
    access_log: Path
    journal: Path

    @property
    def reset(self) -> Path:
        """The socket on which Envoy resets connections that have nowhere to go."""
        return self.admin.with_name("reset.sock")
