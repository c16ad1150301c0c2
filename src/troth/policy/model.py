"""Istio's PeerAuthentication as a value: what a policy says, once parsed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from troth.errors import Location

API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
"""The supported versions; they differ only in name."""

KIND = "PeerAuthentication"


class Mode(StrEnum):
    """``PeerAuthentication.MutualTLS.Mode``: what a port accepts from its clients."""

    UNSET = "UNSET"
    """Inherit from the next wider scope; never an effective mode."""

    STRICT = "STRICT"
    """Mutual TLS only."""

    PERMISSIVE = "PERMISSIVE"
    """Mutual TLS and plaintext; the default without policies."""

    DISABLE = "DISABLE"
    """Plaintext; clients don't use mutual TLS."""


class PeerAuthentication(msgspec.Struct, frozen=True, kw_only=True):
    """One policy (``security.istio.io/v1``, kind ``PeerAuthentication``).

    Attributes:
        selector: ``spec.selector.matchLabels``; empty when the policy has no selector.
        mode: ``spec.mtls.mode``; UNSET also stands for a missing ``mtls``.
        port_modes: ``spec.portLevelMtls`` by the workload's (the container's) port.
        created: ``metadata.creationTimestamp`` with its time zone; None if a file has none.
        location: Where it was read, if from a file.
    """

    namespace: str
    name: str
    selector: Mapping[str, str] = {}
    mode: Mode = Mode.UNSET
    port_modes: Mapping[int, Mode] = {}
    created: datetime | None = None
    api_version: str = API_VERSIONS[0]
    location: Location | None = None

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``, unique in a mesh."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_strict(self) -> bool:
        """Whether it says STRICT somewhere."""
        return Mode.STRICT in (self.mode, *self.port_modes.values())

    @property
    def manifest(self) -> dict[str, object]:
        """The policy as a document for a file."""
        spec: dict[str, object] = {}
        if self.selector:
            spec["selector"] = {"matchLabels": dict(self.selector)}
        if self.mode is not Mode.UNSET:
            spec["mtls"] = {"mode": str(self.mode)}
        if self.port_modes:
            spec["portLevelMtls"] = {
                number: {"mode": str(mode)} for number, mode in sorted(self.port_modes.items())
            }
        return {
            "apiVersion": API_VERSIONS[0],
            "kind": KIND,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
