"""The cluster's controller: signs for node agents, keeps the root, and says what is enforced."""

from __future__ import annotations
