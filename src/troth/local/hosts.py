"""The texts of a pod's ``/etc/hosts``, ``/etc/resolv.conf`` and ``/etc/nsswitch.conf``.

As the kubelet writes the first two. The third an image would bring; the host's could pass by both
and ask a service of the host, such as systemd-resolved, which knows nothing of the mesh.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.manifests.services import CLUSTER_DOMAIN
from troth.manifests.workloads import DnsPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.manifests.workloads import PodTemplate
    from troth.mesh.model import Pod

LONGEST_HOSTNAME = 64
"""What the kernel takes (``HOST_NAME_MAX``)."""

_LONGEST_LABEL = 63
_MOST_NAME_SERVERS = 3
_MOST_SEARCHES = 32
_LONGEST_SEARCH = 253
_LONGEST_SEARCH_LIST = 2048
_OPTIONS = ("ndots:5",)
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_HOSTS_LINE = re.compile(r"^\s*hosts\s*:.*$", re.MULTILINE)
_LOOKUP = "hosts: files dns"

_LOCALHOST = """\
# Written by troth, as the kubelet does it.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


class HostDns(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's ``resolv.conf`` says, as far as it is of use to a pod."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class ResolvConf(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's ``/etc/resolv.conf``, and what had to be left out of it."""

    text: str
    left_out: tuple[str, ...] = ()


def own_name(template: PodTemplate) -> tuple[str, str]:
    """A pod's hostname and its domain, which is empty without a ``subdomain``."""
    hostname = template.hostname or template.name
    if len(hostname) > _LONGEST_LABEL:
        hostname = hostname[:_LONGEST_LABEL].rstrip("-.")
    if not template.subdomain:
        return hostname, ""
    return hostname, f"{template.subdomain}.{template.namespace}.svc.{CLUSTER_DOMAIN}"


def kernel_hostname(template: PodTemplate) -> str:
    """What ``hostname`` says in a pod: its hostname, or all of its name if it wants that."""
    hostname, domain = own_name(template)
    return f"{hostname}.{domain}" if template.fqdn_as_hostname and domain else hostname


def hosts_text(pod: Pod, template: PodTemplate) -> str:
    """``/etc/hosts`` as one pod sees it: itself, and its ``hostAliases``.

    Args:
        pod: Whose file it is.
        template: What that pod is made from.
    """
    hostname, domain = own_name(template)
    own = f"{hostname}.{domain}\t{hostname}" if domain else hostname
    lines = [_LOCALHOST, *(f"{address}\t{own}\n" for address in pod.addresses)]
    if template.host_aliases:
        lines.append("\n# Entries added by HostAliases.\n")
    lines += ["\t".join((each.ip, *each.hostnames)) + "\n" for each in template.host_aliases]
    return "".join(lines)


def resolv_conf(template: PodTemplate, *, nameserver: str, host: HostDns) -> ResolvConf:
    """``/etc/resolv.conf`` by the pod's ``dnsPolicy`` and ``dnsConfig``.

    A pod without name servers has its own loopback there, where nothing answers, so that looking
    up fails at once.

    Args:
        template: What the pod is made from.
        nameserver: The mesh's own.
        host: The host's.
    """
    dns = template.dns
    policy = dns.policy
    if policy is DnsPolicy.CLUSTER_FIRST and template.host_network:
        policy = DnsPolicy.DEFAULT
    servers, searches, options = host.nameservers, host.searches, host.options
    if policy is DnsPolicy.NONE:
        servers = searches = options = ()
    elif policy is not DnsPolicy.DEFAULT:
        domains = (f"{template.namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}")
        servers, searches = (nameserver,), (*domains, CLUSTER_DOMAIN, *searches)
        options = _OPTIONS
    servers = tuple(dict.fromkeys((*servers, *dns.nameservers)))
    searches = tuple(dict.fromkeys((*searches, *dns.searches)))
    values = dict(option.partition(":")[::2] for option in options) | dict(dns.options)
    kept = _within_limits(searches)
    left_out = [f"search domain {each}" for each in searches if each not in kept]
    left_out += [f"name server {each}" for each in servers[_MOST_NAME_SERVERS:]]
    lines = [f"search {' '.join(kept)}"] if kept else []
    lines += [f"nameserver {each}" for each in servers[:_MOST_NAME_SERVERS] or ("127.0.0.1",)]
    if values:
        words = (f"{name}:{value}" if value else name for name, value in values.items())
        lines.append(f"options {' '.join(words)}")
    return ResolvConf(text="".join(f"{line}\n" for line in lines), left_out=tuple(left_out))


def _within_limits(searches: Iterable[str]) -> tuple[str, ...]:
    """As many as resolvers take, from the beginning; some abort at a domain that is too long."""
    kept: list[str] = []
    for each in tuple(searches)[:_MOST_SEARCHES]:
        if len(each) <= _LONGEST_SEARCH:
            if len(" ".join((*kept, each))) > _LONGEST_SEARCH_LIST:
                break
            kept.append(each)
    return tuple(kept)


def nsswitch_text(host: str) -> str:
    """The host's ``/etc/nsswitch.conf`` with names looked up by the pod's own files and servers."""
    text, count = _HOSTS_LINE.subn(_LOOKUP, host)
    return text if count else f"{host.rstrip()}\n{_LOOKUP}\n"


def host_nsswitch(path: Path = Path("/etc/nsswitch.conf")) -> str:
    """The host's, or nothing where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def host_dns(path: Path = Path("/etc/resolv.conf"), behind: Path = _RESOLVED) -> HostDns:
    """What the host's resolver is told, less name servers on its loopback: pods can't reach those.

    Args:
        path: Its ``resolv.conf``.
        behind: Where a resolver on its loopback writes whom it asks itself.
    """
    found = _read_dns(path)
    if not found.nameservers:
        found = msgspec.structs.replace(found, nameservers=_read_dns(behind).nameservers)
    return found


def _read_dns(path: Path) -> HostDns:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return HostDns()
    words = [line.split() for line in lines if not line.lstrip().startswith(("#", ";"))]
    searches = next((each[1:] for each in reversed(words) if each[:1] == ["search"]), [])
    options = (option for each in words if each[:1] == ["options"] for option in each[1:])
    named = [each[1] for each in words if each[:1] == ["nameserver"] and len(each) > 1]
    return HostDns(
        nameservers=tuple(server for server in named if not _is_loopback(server)),
        searches=tuple(each.removesuffix(".") for each in searches if each != "."),
        options=tuple({option.partition(":")[0]: option for option in options}.values()),
    )


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def update_in_place(path: Path, text: str) -> None:
    """Writes ``text`` into the very file that may be bind-mounted into containers.

    A reader meanwhile may see old and new lines mixed, but never an empty file.
    """
    content = text.encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+b") as file:
        if file.read() == content:
            return
        file.seek(0)
        file.write(content)
        file.truncate()
