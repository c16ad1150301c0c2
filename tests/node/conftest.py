"""The namespaces of the local mesh's tests serve here too."""

from __future__ import annotations

from tests.local.conftest import in_node_namespace

__all__ = ["in_node_namespace"]
