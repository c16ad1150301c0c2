"""Which roots vouch for a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth._contract import root_fingerprint
from troth.errors import InputError
from troth.identity import validate_svid_chain

if TYPE_CHECKING:
    from datetime import datetime

    from troth.identity import TrustBundle, X509Svid


def issuers(svid: X509Svid, bundle: TrustBundle, now: datetime) -> frozenset[str]:
    """Fingerprints of the roots in ``bundle`` that the certificate chains to."""
    return frozenset(
        root_fingerprint(root)
        for root in bundle.certificates
        if _vouches(msgspec.structs.replace(bundle, certificates=(root,)), svid, now)
    )


def _vouches(root: TrustBundle, svid: X509Svid, now: datetime) -> bool:
    try:
        validate_svid_chain(svid.chain, root, now=now)
    except InputError:
        return False
    return True
