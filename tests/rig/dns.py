"""Cluster DNS: services' names, asked of the API server at every query.

What stands for CoreDNS: A records of ``SERVICE.NAMESPACE.svc.cluster.local``, the addresses of the
ready pods for a headless service, and of such a pod by its host name before that. Nothing else
exists.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

import httpx2
from lightkube.resources.core_v1 import Service
from lightkube.resources.discovery_v1 import EndpointSlice
from tests.rig import objects

from troth.agent.netns import socket_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightkube import Client

DOMAIN = "cluster.local"
ADDRESS = "10.96.0.10"

_PORT = 53
_HEADER = struct.Struct("!6H")
_RESPONSE = 0x8180  # a response, recursion desired and available
_NO_SUCH_NAME = 3
_TYPE_A = 1
_CLASS_IN = 1
_TTL_SECONDS = 1
_QUESTIONS_NAME = 0xC000 | _HEADER.size  # a pointer to the name in the question

# What makes the server a service; it runs beside the control plane, not in a pod.
_OBJECTS = """
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec:
  clusterIP: %(service)s
  ports: [{name: dns, protocol: UDP, port: 53}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: kube-system
  name: kube-dns
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
ports: [{name: dns, protocol: UDP, port: 53}]
endpoints: [{addresses: [%(server)s]}]
"""


class ClusterDNS:
    """The cluster's name server.

    Args:
        client: With the right to read services.
        netns: Where it listens.
        address: The address it listens on there.
    """

    def __init__(self, client: Client, netns: Path, address: str) -> None:
        self._client = client
        self._netns = netns
        self._address = address
        self._known: dict[str, list[str] | None] = {}
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)

    def __enter__(self) -> Self:
        self._socket = socket_in(self._netns, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self._address, _PORT))
        self._thread.start()
        objects.apply(self._client, _OBJECTS % {"service": ADDRESS, "server": self._address})
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread, which a mere close would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            with contextlib.suppress(OSError, ValueError, struct.error, IndexError):
                self._socket.sendto(answer(query, self._resolve), peer)

    def _resolve(self, name: str) -> list[str] | None:
        # As long as the API server is down, what was true last holds.
        with contextlib.suppress(httpx2.HTTPError):
            self._known[name] = self._look_up(name)
        return self._known.get(name)

    def _look_up(self, name: str) -> list[str] | None:
        labels = name.removesuffix(f".svc.{DOMAIN}").split(".")
        if not name.endswith(f".svc.{DOMAIN}"):
            return None
        if len(labels) not in (len(("service", "namespace")), len(("pod", "service", "namespace"))):
            return None
        host = labels[0] if len(labels) > len(("service", "namespace")) else ""
        service, namespace = labels[-2:]
        found = objects.find(self._client, Service, service, namespace)
        if found is None:
            return None
        address: str = found["spec"].get("clusterIP", "None")
        if not host and address != "None":
            return [address]
        return self._ready(service, namespace, host) or (None if host else [])

    def _ready(self, service: str, namespace: str, host: str) -> list[str]:
        label: dict[str, Any] = {"kubernetes.io/service-name": service}
        return [
            address
            for part in self._client.list(EndpointSlice, namespace=namespace, labels=label)
            for endpoint in part.endpoints or ()
            if endpoint.conditions is None or endpoint.conditions.ready is not False
            if not host or endpoint.hostname == host
            for address in endpoint.addresses
        ]


def answer(query: bytes, resolve: Callable[[str], list[str] | None]) -> bytes:
    """The response to a query with one question, by RFC 1035."""
    (identifier,) = struct.unpack_from("!H", query)
    labels, end = [], _HEADER.size
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].decode("ascii").lower())
        end += 1 + length
    kind, _ = struct.unpack_from("!HH", query, end + 1)
    question = query[_HEADER.size : end + 5]
    addresses = resolve(".".join(labels))
    code = _NO_SUCH_NAME if addresses is None else 0
    records = [
        struct.pack("!HHHIH", _QUESTIONS_NAME, _TYPE_A, _CLASS_IN, _TTL_SECONDS, 4)
        + socket.inet_aton(address)
        for address in (addresses or () if kind == _TYPE_A else ())
    ]
    header = _HEADER.pack(identifier, _RESPONSE | code, 1, len(records), 0, 0)
    return header + question + b"".join(records)
