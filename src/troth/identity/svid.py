"""The X509-SVID: a workload's private key, certificate chain and trust bundle as one value."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

import msgspec

from troth.errors import Flaw, refuse
from troth.identity.bundle import TrustBundle
from troth.identity.keys import PrivateKeyPem
from troth.identity.profile import verify_svid
from troth.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from troth.identity.keys import SigningKey


class X509Svid(msgspec.Struct, frozen=True, kw_only=True):
    """All that a workload needs to prove its identity and to verify others'.

    It is replaced as a whole, so key and certificate always belong together. The key is in no
    `repr`, and encoding an SVID as JSON fails rather than writing the key.

    Attributes:
        spiffe_id: The identity it proves.
        private_key: The leaf's key; `PrivateKeyPem.reveal` gives the PEM.
        chain: PEM, the leaf first, then the intermediates, without the root.
        bundle: The roots by which its owner verifies others.
        not_before: Start of the leaf's validity.
        not_after: End of the leaf's validity.
    """

    spiffe_id: SpiffeId
    private_key: PrivateKeyPem
    chain: bytes
    bundle: TrustBundle
    not_before: datetime
    not_after: datetime

    @classmethod
    def assemble(
        cls,
        key: SigningKey,
        chain: bytes,
        bundle: TrustBundle,
        *,
        now: datetime,
        expected: SpiffeId | None = None,
    ) -> Self:
        """Combine an issued chain with its key, if the chain is what was requested.

        Raises:
            InputError: The chain is invalid at ``now``, proves an identity other than ``expected``,
                or belongs to another key.
        """
        subject = f"certificate for {expected}" if expected else "certificate chain"
        verified = verify_svid(chain, bundle, now=now, expected=expected, subject=subject)
        leaf = verified.leaf
        if leaf.public_key() != key.public_key():
            refuse(subject, [Flaw("belongs to another key", "certify the key in the request")])
        return cls(
            spiffe_id=verified.spiffe_id,
            private_key=PrivateKeyPem(key),
            chain=chain,
            bundle=bundle,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )
