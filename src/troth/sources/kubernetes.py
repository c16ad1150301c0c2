"""What programs need to talk to a Kubernetes API server beside following it.

A face of its own, because lightkube behind it is slow to import and `troth.sources` is not.
"""

from __future__ import annotations

from troth.sources._api_client import (
    api_client,
    api_errors,
    is_conflict,
    is_ending_namespace,
    is_missing,
    program_config,
)
from troth.sources._api_requests import METADATA_ONLY, ApiRequests
from troth.sources._api_server import ApiServer, Resource
from troth.sources._cluster_objects import read_pod
from troth.sources._followed import Followed, NamespacedResource, model_reader, reader
from troth.sources._json import decode
from troth.sources._kubernetes import NAMESPACES, PODS
from troth.sources._readings import NamedResource, Readings
from troth.sources._reflector import ANY_VERSION, Broken, Listed

__all__ = [
    "ANY_VERSION",
    "METADATA_ONLY",
    "NAMESPACES",
    "PODS",
    "ApiRequests",
    "ApiServer",
    "Broken",
    "Followed",
    "Listed",
    "NamedResource",
    "NamespacedResource",
    "Readings",
    "Resource",
    "api_client",
    "api_errors",
    "decode",
    "is_conflict",
    "is_ending_namespace",
    "is_missing",
    "model_reader",
    "program_config",
    "read_pod",
    "reader",
]
