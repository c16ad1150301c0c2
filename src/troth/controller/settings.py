"""What the controller is told at its start."""

from __future__ import annotations

import msgspec

from troth._contract import DEFAULT_NAMESPACE
from troth._listen import ListenAddress
from troth.controller.election import Timing
from troth.controller.signing import SigningRules
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The controller's settings.

    Attributes:
        rules: Who gets certificates.
        namespace: Where its own objects are.
        root_namespace: Where mesh-wide policies live.
        health_port: Where the kubelet asks; 0 for any.
        metrics: Where Prometheus may scrape it; nowhere when None.
        timing: Of the leader election.
    """

    rules: SigningRules
    namespace: str = DEFAULT_NAMESPACE
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    health_port: int = 8086
    metrics: ListenAddress | None = None
    timing: Timing = Timing()
