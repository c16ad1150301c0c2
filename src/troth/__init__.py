"""Mutual TLS between Kubernetes services, decided by Istio's PeerAuthentication.

The packages, from the pure middle outwards: `policy`, `identity` and `mesh` decide and touch
nothing; `envoy`, `manifests`, `cluster`, `agent`, `local` and `controller` meet the world; `cli`
is the `troth` command. ARCHITECTURE.md has the picture.
"""

__version__ = "0.1.0"
