"""Who a workload is, and how it proves it: SPIFFE IDs, X.509 SVIDs and the authority behind them.

Everything here is pure: keys and certificates are values in memory, and the time is an argument.

* `TrustDomain` and `SpiffeId` are the names.
* `CertificateAuthority` answers requests (`build_csr`, `parse_csr`) with certificates.
* `X509Svid` is a workload's key, chain and `TrustBundle`; `validate_svid_chain` judges a peer's.
* `CertificateRotation` says what to renew and when.
"""

from __future__ import annotations

from troth.identity._authority import CertificateAuthority, IssuedCertificate
from troth.identity._bundle import TrustBundle
from troth.identity._csr import CsrRequest, build_csr, parse_csr
from troth.identity._keys import PrivateKeyPem, new_key
from troth.identity._rotation import CertificateRotation, SigningRequest, Step
from troth.identity._schedule import next_retry, renew_at
from troth.identity._spiffe import DEFAULT_TRUST_DOMAIN, SpiffeId, TrustDomain
from troth.identity._svid import X509Svid
from troth.identity._validation import validate_svid_chain

__all__ = [
    "DEFAULT_TRUST_DOMAIN",
    "CertificateAuthority",
    "CertificateRotation",
    "CsrRequest",
    "IssuedCertificate",
    "PrivateKeyPem",
    "SigningRequest",
    "SpiffeId",
    "Step",
    "TrustBundle",
    "TrustDomain",
    "X509Svid",
    "build_csr",
    "new_key",
    "next_retry",
    "parse_csr",
    "renew_at",
    "validate_svid_chain",
]
