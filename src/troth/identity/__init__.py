"""Who a workload is, and how it proves it: SPIFFE IDs, X.509 SVIDs and the authority behind them.

Everything here is pure: keys and certificates are values in memory, and the time is an argument.
"""

from __future__ import annotations

from troth.identity._spiffe import SpiffeId, TrustDomain

__all__ = ["SpiffeId", "TrustDomain"]
