"""SPIFFE IDs and trust domains as values that are checked once and then trusted.

The rules are those of the SPIFFE-ID standard (section 2). They are stricter than RFC 3986: an
identity has exactly one spelling, so two are equal if their texts are. Nothing is normalised; other
spellings are refused.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Self

import msgspec

from troth.errors import Flaw, refuse
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEME = "spiffe://"
# In bytes and characters alike: only ASCII is allowed.
_MAX_TRUST_DOMAIN_LENGTH = 255
_MAX_ID_LENGTH = 2048
_TRUST_DOMAIN_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + ".-_")
_SEGMENT_CHARACTERS = frozenset(string.ascii_letters + string.digits + ".-_")


DEFAULT_TRUST_DOMAIN = "cluster.local"
"""The default trust domain (Istio's ``meshConfig.trustDomain``)."""


class TrustDomain(msgspec.Struct, frozen=True, order=True):
    """The name of a trust domain, such as ``cluster.local``: the authority behind identities.

    Raises:
        InputError: On construction, if ``name`` violates the SPIFFE-ID standard, section 2.1.
    """

    name: str

    def __post_init__(self) -> None:
        refuse(f"trust domain {described(self.name)}", _trust_domain_flaws(self.name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a bare name; a URI such as ``spiffe://cluster.local`` is a `SpiffeId`, not this.

        Raises:
            InputError: ``text`` isn't a trust domain name; every flaw is listed.
        """
        return cls(text)

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> SpiffeId:
        """The trust domain's own SPIFFE ID, without a path; its CA certificates carry it."""
        return SpiffeId(self, "")


class SpiffeId(msgspec.Struct, frozen=True, order=True):
    """The name of a workload, as its X509-SVID carries it; `str` gives the URI.

    Attributes:
        trust_domain: Who vouches for it.
        path: Everything after the trust domain, from its slash on; empty for the trust domain
            itself.

    Raises:
        InputError: On construction, if ``path`` violates the SPIFFE-ID standard, section 2.2, or
            the whole is too long (section 2.3).
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        refuse(f"SPIFFE ID {described(str(self))}", _id_flaws(self.trust_domain.name, self.path))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a ``spiffe://`` URI.

        Raises:
            InputError: ``text`` isn't a SPIFFE ID; every flaw is listed.
        """
        subject = f"SPIFFE ID {described(text)}"
        if not text.startswith(_SCHEME):
            refuse(subject, [Flaw("is not a spiffe URI", f"begin it with {_SCHEME}")])
        name, slash, rest = text.removeprefix(_SCHEME).partition("/")
        refuse(subject, _id_flaws(name, slash + rest))
        return cls(TrustDomain(name), slash + rest)

    @classmethod
    def for_service_account(
        cls, trust_domain: TrustDomain, namespace: str, service_account: str
    ) -> Self:
        """Name a Kubernetes service account, ``/ns/NAMESPACE/sa/SERVICEACCOUNT`` as Istio does.

        Raises:
            InputError: One of the names isn't valid as one path segment.
        """
        refuse(
            f"service account {described(f'{namespace}/{service_account}')}",
            (
                Flaw(f"{described(name)} {flaw.found}", flaw.wanted, path)
                for path, name in (("namespace", namespace), ("name", service_account))
                for flaw in _segment_flaws(name)
            ),
        )
        return cls(trust_domain, f"/ns/{namespace}/sa/{service_account}")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace, if this names a service account."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", _]:
                return namespace
        return None

    @property
    def service_account(self) -> str | None:
        """The name of the service account, if this names one."""
        match self.path.split("/"):
            case ["", "ns", _, "sa", service_account]:
                return service_account
        return None


def _id_flaws(trust_domain: str, path: str) -> Iterator[Flaw]:
    if len(_SCHEME) + len(trust_domain) + len(path) > _MAX_ID_LENGTH:
        yield Flaw(f"is longer than {_MAX_ID_LENGTH} bytes", f"use at most {_MAX_ID_LENGTH}")
        return  # its flaws could be as many as its bytes
    yield from _trust_domain_flaws(trust_domain)
    yield from _path_flaws(path)


def _trust_domain_flaws(name: str) -> Iterator[Flaw]:
    if not name:
        yield Flaw("the trust domain is empty", "name one, such as cluster.local")
    if len(name) > _MAX_TRUST_DOMAIN_LENGTH:
        yield Flaw(
            f"the trust domain is longer than {_MAX_TRUST_DOMAIN_LENGTH} bytes",
            f"use at most {_MAX_TRUST_DOMAIN_LENGTH}",
        )
    if foreign := _foreign_characters(name, _TRUST_DOMAIN_CHARACTERS):
        yield Flaw(
            f"the trust domain contains {foreign}",
            "use only a-z, 0-9, '.', '-' and '_' (no user, port, query or fragment)",
        )


def _path_flaws(path: str) -> Iterator[Flaw]:
    if not path:
        return
    if not path.startswith("/"):
        yield Flaw("the path does not begin with a slash", "begin it with '/', or leave it out")
        return
    segments = path[1:].split("/")
    if segments[-1] == "":
        yield Flaw("the path ends with a slash", "leave the last slash out")
        segments.pop()
    for segment in dict.fromkeys(segments):
        for flaw in _segment_flaws(segment):
            yield Flaw(f"path segment {described(segment)} {flaw.found}", flaw.wanted)


def _segment_flaws(segment: str) -> Iterator[Flaw]:
    if not segment:
        yield Flaw("is empty", "put a name there")
    if segment in {".", ".."}:
        yield Flaw("is relative", "write the path in full")
    if foreign := _foreign_characters(segment, _SEGMENT_CHARACTERS):
        yield Flaw(
            f"contains {foreign}",
            "use only a-z, A-Z, 0-9, '.', '-' and '_' (no percent-encoding, query or fragment)",
        )


def _foreign_characters(text: str, allowed: frozenset[str]) -> str:
    """The first few characters of ``text`` that are not allowed, for a message."""
    if allowed.issuperset(text):
        return ""
    foreign = dict.fromkeys(character for character in text if character not in allowed)
    return ", ".join(ascii(character) for character in [*foreign][:5])
