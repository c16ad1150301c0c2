"""The few messages of the CRI that are needed (``runtime.v1`` of k8s.io/cri-api), made at run time.

Fields that troth doesn't look at are left out: protobuf passes over what it doesn't know. Enums are
declared as the integers, and maps as the lists of pairs, that they are on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE = "runtime.v1"
_REPEATED = "repeated "

Fields: TypeAlias = tuple[tuple[str, str, int], ...]
"""A message's fields: name, kind and number of each."""

_MESSAGES: dict[str, Fields] = {
    "PodSandboxStateValue": (("state", "int32", 1),),
    "PodSandboxFilter": (("state", "PodSandboxStateValue", 2),),
    "ListPodSandboxRequest": (("filter", "PodSandboxFilter", 1),),
    "PodSandboxMetadata": (("name", "string", 1), ("uid", "string", 2), ("namespace", "string", 3)),
    "PodSandbox": (("id", "string", 1), ("metadata", "PodSandboxMetadata", 2)),
    "ListPodSandboxResponse": (("items", "repeated PodSandbox", 1),),
    "PodSandboxStatusRequest": (("pod_sandbox_id", "string", 1), ("verbose", "bool", 2)),
    "Pair": (("key", "string", 1), ("value", "string", 2)),
    "PodSandboxStatusResponse": (("info", "repeated Pair", 2),),
}

SANDBOX_READY = 0
"""Of the enum PodSandboxState."""


def message_classes(more: Mapping[str, Fields] | None = None) -> dict[str, Any]:
    """Classes of all messages, by name; ``more`` are further ones that may refer to them."""
    messages = {**_MESSAGES, **(more or {})}
    file = descriptor_pb2.FileDescriptorProto(
        name="troth/cri.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, words, number in fields:
            kind = words.removeprefix(_REPEATED)
            label = "LABEL_REPEATED" if words != kind else "LABEL_OPTIONAL"
            made = message.field.add(name=field, number=number, label=label)
            if kind in messages:
                made.type, made.type_name = made.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                made.type = getattr(made, f"TYPE_{kind.upper()}")
    # A pool of its own: nobody else's idea of these messages gets in the way.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in messages
    }


_CLASSES = message_classes()
ListPodSandboxRequest: Any = _CLASSES["ListPodSandboxRequest"]
PodSandboxStatusRequest: Any = _CLASSES["PodSandboxStatusRequest"]
RESPONSES: Mapping[str, Any] = {
    method: _CLASSES[f"{method}Response"] for method in ("ListPodSandbox", "PodSandboxStatus")
}
