"""A workload's identity and its proof: SPIFFE IDs, X.509 SVIDs and the certificate authority.

Everything here is pure: keys and certificates are values in memory, and the time is an argument.

* `TrustDomain` and `SpiffeId` are the names.
* `CertificateAuthority` answers requests (`build_csr`, `parse_csr`) with certificates.
* `X509Svid` is a workload's key, chain and `TrustBundle`; `validate_svid_chain` checks a peer's.

* `CertificateRotation` says what to renew and when.
"""
