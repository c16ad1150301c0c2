"""The kinds of objects that agents and controller read and write, each with its Python type.

Objects to write are lightkube's models, which have every field of the API; objects read in large
numbers are those of `troth.kube.wire`, with few fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, Event, Pod, Secret

from troth.kube.resource import ObjectKind

if TYPE_CHECKING:
    from datetime import datetime

CSR = ObjectKind(
    kind="CertificateSigningRequest",
    plural="certificatesigningrequests",
    group="certificates.k8s.io",
    shape=CertificateSigningRequest,
)
CONFIG_MAP = ObjectKind(kind="ConfigMap", plural="configmaps", shape=ConfigMap)
EVENT = ObjectKind(kind="Event", plural="events", shape=Event)
LEASE = ObjectKind(kind="Lease", plural="leases", group="coordination.k8s.io", shape=Lease)
POD = ObjectKind(kind="Pod", plural="pods", shape=Pod)
RAW_POD = ObjectKind(kind="Pod", plural="pods", shape=msgspec.Raw)
"""For patching a pod without reading the response."""

SECRET = ObjectKind(kind="Secret", plural="secrets", shape=Secret)


def micro_time(moment: datetime | None) -> datetime | None:
    """A ``MicroTime`` as the API server reads it, with its microseconds never left out as 0."""
    return moment.replace(microsecond=moment.microsecond or 1) if moment else None
