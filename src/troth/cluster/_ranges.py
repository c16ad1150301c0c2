"""The networks that a cluster's services have their virtual IPs from."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.sources.kubernetes import Broken, Listed, Resource, decode, reader

if TYPE_CHECKING:
    from troth.sources.kubernetes import ApiServer

_log = structlog.get_logger(__name__)


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
    read=reader(ServiceCidr, _read),
    is_optional=True,
)


async def service_ranges(server: ApiServer) -> tuple[str, ...]:
    """The ServiceCIDRs (Kubernetes 1.33 and later); none if the API server doesn't tell.

    They are only ever added to. Without them each service is known by its own address, and one that
    is too new to be known is left to kube-proxy.
    """
    match await server.list(SERVICE_CIDRS):
        case Listed(items):
            values = [item.value for item in items if item.value is not None]
            return tuple(sorted({cidr for value in values for cidr in value.cidrs}))
        case Broken(error):
            _log.warning("the ranges of services are unknown", reason=str(error))
    return ()
