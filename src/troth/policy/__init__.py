"""Istio's PeerAuthentication: read policies, decide each port's effective mode, and say why.

Everything here is pure: decoded documents in, values and problems out. A policy set becomes a
`PolicyIndex`, which answers for a workload's namespace, labels and ports:

    >>> strict = PeerAuthentication(namespace="finance", name="default", mode=Mode.STRICT)
    >>> index = PolicyIndex([strict], root_namespace="istio-system")
    >>> verdict = index.effective("finance", {"app": "payments"}, ports=[8080])
    >>> verdict.mode_of(8080), str(verdict.decider_of(8080))
    (<Mode.STRICT: 'STRICT'>, 'finance/default (namespace)')
"""

from __future__ import annotations

from troth.policy._changes import PolicyChanges
from troth.policy._lint import lint_policies
from troth.policy._model import API_VERSIONS, KIND, Mode, PeerAuthentication
from troth.policy._parse import UNNAMED, parse_peer_authentication
from troth.policy._resolve import PolicyIndex
from troth.policy._scope import Scope, scope_of
from troth.policy._verdict import (
    Considered,
    DecidedBy,
    Decision,
    Outcome,
    PortVerdict,
    Verdict,
)

__all__ = [
    "API_VERSIONS",
    "KIND",
    "UNNAMED",
    "Considered",
    "DecidedBy",
    "Decision",
    "Mode",
    "Outcome",
    "PeerAuthentication",
    "PolicyChanges",
    "PolicyIndex",
    "PortVerdict",
    "Scope",
    "Verdict",
    "lint_policies",
    "parse_peer_authentication",
    "scope_of",
]
