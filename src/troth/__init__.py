"""Mutual TLS between Kubernetes services, decided by Istio's PeerAuthentication.

The packages, from the pure core outwards: `policy`, `identity` and `mesh` decide without I/O;
`envoy`, `manifests`, `cluster`, `agent`, `local` and `controller` do the I/O; `cli` is the `troth`
command. ARCHITECTURE.md has the picture.
"""

__version__ = "0.1.0"
