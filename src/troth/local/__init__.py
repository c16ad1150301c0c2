"""A one-node mesh from ordinary manifests: pods as processes in their own network namespaces."""

from __future__ import annotations
