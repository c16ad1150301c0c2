"""Pods that take their time to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.e2e.manifests import Object

GRACE_SECONDS = 600


def lingering(objects: Sequence[Object], directory: Path, *, pre_stop: str = "") -> list[Object]:
    """What `server` made, but it ends only when the test has it end.

    Args:
        objects: A service account and a pod.
        directory: The pod's ``/linger``: `programs/hello.py` says what happens there.
        pre_stop: A shell script for the container's ``preStop`` hook.
    """
    account, pod = objects
    (container,) = pod["spec"]["containers"]
    container = container | {
        "env": [*container["env"], {"name": "LINGER", "value": "/linger"}],
        "volumeMounts": [{"name": "linger", "mountPath": "/linger"}],
    }
    if pre_stop:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", pre_stop]}}}
    spec = pod["spec"] | {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [{"name": "linger", "hostPath": {"path": str(directory)}}],
    }
    return [account, pod | {"spec": spec}]
