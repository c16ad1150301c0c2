"""What happens on a node: network namespaces, capture, certificates and their supervisor."""

from __future__ import annotations
