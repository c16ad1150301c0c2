"""Who a workload is, and how it proves it: SPIFFE IDs, X.509 SVIDs and the authority behind them.

Everything here is pure: keys and certificates are values in memory, and the time is an argument.

* `TrustDomain` and `SpiffeId` are the names.
* `CertificateAuthority` answers requests (`build_csr`, `parse_csr`) with certificates.
* `X509Svid` is a workload's key, chain and `TrustBundle`; `validate_svid_chain` judges a peer's.
* `CertificateRotation` says what to renew and when.
"""
