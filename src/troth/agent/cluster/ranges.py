"""The networks that a cluster's services have their virtual IPs from."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.kube.follow import Followed
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.kube.client import ApiClient


class ServiceCidr(msgspec.Struct, frozen=True):
    """networking.k8s.io ServiceCIDRSpec."""

    cidrs: tuple[str, ...] = ()


class _Sent(msgspec.Struct, frozen=True):
    spec: ServiceCidr


def _read(raw: msgspec.Raw) -> ServiceCidr:
    sent = decode(raw, _Sent).spec
    try:
        return ServiceCidr(tuple(str(ip_network(text)) for text in sent.cidrs))
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error


SERVICE_CIDRS = Resource(
    plural="servicecidrs",
    group="networking.k8s.io",
    versions=("v1", "v1beta1"),
    read=reader("ServiceCIDR", _read),
    is_optional=True,
)


class ServiceRanges:
    """The ServiceCIDRs there are (Kubernetes 1.33 and later); none if the API server tells of none.

    Without them each service is known by its own addresses, so nothing waits for them and no error
    keeps a node from being ready.

    Args:
        server: Where they are.
        on_change: Called when there are others.
    """

    def __init__(self, server: ApiClient, *, on_change: Callable[[], None]) -> None:
        self._followed = Followed(server, SERVICE_CIDRS, on_change=on_change)

    @property
    def networks(self) -> tuple[str, ...]:
        """All of them, sorted."""
        each = self._followed.objects.values()
        return tuple(sorted({cidr for ranges in each for cidr in ranges.cidrs}))

    async def run(self) -> None:
        """Follow them until cancelled."""
        await self._followed.run()
