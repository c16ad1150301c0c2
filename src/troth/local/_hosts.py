"""The texts of a pod's ``/etc/hosts`` and ``/etc/resolv.conf``: names without a DNS server."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.mesh import Pod, Service
    from troth.sources import PodTemplate

# A name server out of reach would otherwise hold up an unknown name for 20 seconds.
_OPTIONS = "options ndots:5 timeout:1 attempts:2"

_LOCALHOST = """\
# Written by troth, and again whenever a Service changes.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
"""


def hosts_text(
    pod: Pod,
    template: PodTemplate,
    services: Iterable[Service],
    *,
    cluster_domain: str = "cluster.local",
    peers: Iterable[tuple[Pod, PodTemplate]] = (),
) -> str:
    """``/etc/hosts`` as one pod sees it: itself, and every Service under all of its DNS names.

    A Service has its virtual IPs, a headless one its ready endpoints' addresses.

    Args:
        pod: Whose file it is.
        template: What that pod is made from.
        services: All Services of the mesh.
        cluster_domain: The suffix of every Service's full name.
        peers: Pods that may have a name of their own below a headless Service (``subdomain``).
    """
    lines = [_LOCALHOST]
    hostname = template.hostname or pod.name
    own = hostname
    if template.subdomain:
        own = f"{hostname}.{template.subdomain}.{pod.namespace}.svc.{cluster_domain} {hostname}"
    lines += [f"{address}\t{own}\n" for address in pod.addresses]
    ordered = sorted(services, key=lambda service: (service.namespace, service.name))
    for service in ordered:
        names = _names(service.name, service.namespace, pod.namespace, cluster_domain)
        lines += [f"{address}\t{names}\n" for address in _addresses(service)]
    headless = {
        str(service): set(_addresses(service)) for service in ordered if not service.cluster_ips
    }
    for peer, peer_template in peers:
        known = headless.get(f"{peer.namespace}/{peer_template.subdomain}", set())
        name = f"{peer_template.hostname or peer.name}.{peer_template.subdomain}"
        names = _names(name, peer.namespace, pod.namespace, cluster_domain)
        lines += [f"{address}\t{names}\n" for address in peer.addresses if address in known]
    return "".join(lines)


def resolv_conf_text(
    namespace: str, *, cluster_domain: str = "cluster.local", nameservers: Iterable[str] = ()
) -> str:
    """``/etc/resolv.conf`` with the search list that Kubernetes gives to pods of ``namespace``.

    Without name servers it names the pod's own loopback, where nothing answers: a name that is
    not in ``/etc/hosts`` then fails at once instead of after a timeout.
    """
    servers = tuple(nameservers) or ("127.0.0.1",)
    search = f"{namespace}.svc.{cluster_domain} svc.{cluster_domain} {cluster_domain}"
    lines = [f"search {search}", *(f"nameserver {server}" for server in servers), _OPTIONS]
    return "".join(f"{line}\n" for line in lines)


def host_nameservers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The host's name servers, less those on its loopback, which pods can't reach."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    named = [line.split()[1] for line in lines if re.match(r"nameserver\s+\S", line)]
    return tuple(server for server in named if not _is_loopback(server))


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


def _names(name: str, namespace: str, reader: str, cluster_domain: str) -> str:
    """The full name first, because reverse lookups answer with the first."""
    names = [
        f"{name}.{namespace}.svc.{cluster_domain}",
        f"{name}.{namespace}.svc",
        f"{name}.{namespace}",
    ]
    return " ".join([*names, name] if namespace == reader else names)


def _addresses(service: Service) -> Iterator[str]:
    if service.cluster_ips:
        yield from service.cluster_ips
        return
    endpoints = (endpoint.address for port in service.ports for endpoint in port.endpoints)
    yield from dict.fromkeys(endpoints)
