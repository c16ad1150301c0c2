"""What is relied on in an object from the Kubernetes API: names, addresses and ports."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop, inet_pton
from sys import intern
from typing import TYPE_CHECKING

from troth.errors import Problem, Severity
from troth.syntax import NAME, NAMESPACE, Rule, described, legible_name, plain_address

if TYPE_CHECKING:
    from troth.kube import wire
    from troth.syntax import Flaw

# The one form of an IPv4 address, and nearly every address that there is to check.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")

# UIDs end up in names of Envoy's resources, and tell the pod's cgroup.
_UID = Rule(
    pattern=re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"),
    longest=128,
    wanted="let the API server choose it (RFC 4122 UUID)",
)


class Checks:
    """Passes on what has a syntax of its own, and notes what is wrong with it.

    Attributes:
        problems: All that was wrong.
    """

    def __init__(self, kind: str, header: wire.Header) -> None:
        place = legible_name(header.name)
        if header.namespace:
            place = f"{legible_name(header.namespace)}/{place}"
        self.problems: list[Problem] = []
        self._subject = f"{kind} {place}"
        rule = NAMESPACE if kind == "Namespace" else NAME
        self.name(header.name, "metadata.name", rule)
        if header.namespace:
            self.name(header.namespace, "metadata.namespace", NAMESPACE)

    def refuse(self, path: str, found: str, wanted: str = "correct the object") -> None:
        """Note an error."""
        self.problems.append(Problem(subject=self._subject, path=path, found=found, wanted=wanted))

    def warn(self, path: str, found: str, wanted: str) -> None:
        """Note what the object is used in spite of."""
        self.problems.append(
            Problem(
                subject=self._subject,
                path=path,
                found=found,
                wanted=wanted,
                severity=Severity.WARNING,
            )
        )

    @property
    def refused(self) -> bool:
        """Whether an error was noted."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)

    def name(self, text: str, path: str, rule: Rule = NAME) -> str:
        """A name, by default of the most liberal kind."""
        if flaw := rule.flaw(text):
            self.refuse(path, *flaw)
        return text

    def uid(self, text: str) -> str:
        """What names one incarnation of an object."""
        return self.name(text, "metadata.uid", _UID)

    def address(self, text: str, path: str) -> str:
        """An IP in canonical form; empty if it is none. Equal ones are one object."""
        if _IPV4.fullmatch(text):
            return intern(text)
        flaw: Flaw = (f"is {described(text)}", "write an IP address")
        plain = plain_address(text)
        if plain != text:
            return self.address(plain, path)
        if "%" in text:
            self.refuse(path, *flaw)
            return ""
        try:
            return intern(_canonical(text))
        except ValueError:
            self.refuse(path, *flaw)
            return ""

    def port(self, number: int, path: str) -> int:
        """A port number."""
        if not is_port(number):
            self.refuse(path, f"is {described(number)}", "write a port, 1 to 65535")
        return number


def is_port(number: int) -> bool:
    """Whether a port may have that number."""
    return 1 <= number <= 65535  # noqa: PLR2004 - the range of a port


def _canonical(text: str) -> str:
    """An IPv6 address as `ipaddress` writes it, mostly without its help: it takes long."""
    try:
        written = inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    except OSError as error:
        raise ValueError(text) from error
    if "." not in written:
        return written
    address = IPv6Address(text)
    return str(address.ipv4_mapped or address)  # as kube-proxy has it, the same address
