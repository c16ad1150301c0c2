"""Istio's PeerAuthentication: read policies, decide each port's effective mode, and say why.

Everything here is pure: decoded documents in, values and problems out. A policy set becomes a
`PolicyIndex`, which answers for a workload's namespace, labels and ports:

    >>> from troth.policy.model import Mode, PeerAuthentication
    >>> from troth.policy.index import PolicyIndex
    >>> strict = PeerAuthentication(namespace="finance", name="default", mode=Mode.STRICT)
    >>> index = PolicyIndex([strict], root_namespace="istio-system")
    >>> verdict = index.effective("finance", {"app": "payments"}, ports=[8080])
    >>> verdict.mode_of(8080), str(verdict.decider_of(8080))
    (<Mode.STRICT: 'STRICT'>, 'finance/default (namespace)')
"""
