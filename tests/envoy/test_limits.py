from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from troth.envoy.accesslog import Role
from troth.envoy.bootstrap import bootstrap
from troth.envoy.limits import POD_CONNECTIONS, Limits, runtime_layer
from troth.mesh.ports import PORT_SETS

GIB = 1024**3
PATH = Path("/run/socket")


@pytest.mark.parametrize(
    ("descriptors", "asked", "expected"),
    [
        pytest.param(1_048_576, None, (262_144, POD_CONNECTIONS), id="default"),
        pytest.param(4_000, None, (1_000, 250), id="few descriptors: a quarter"),
        pytest.param(4_000, 900, (1_000, 900), id="as asked for"),
        pytest.param(2, None, (1, 1), id="never none"),
    ],
)
def test_a_pods_share_is_the_default_or_a_quarter_unless_asked_otherwise(
    descriptors: int, asked: int | None, expected: tuple[int, int]
) -> None:
    limits = Limits.of(descriptors=descriptors, pod_connections=asked)
    assert (limits.connections, limits.pod_connections) == expected


def test_envoys_heap_leaves_room_for_the_agent() -> None:
    limits = Limits.of(descriptors=100, memory=GIB)
    assert limits.heap_bytes is not None
    assert 0.5 * GIB < limits.heap_bytes < GIB - 200 * 1024**2


def test_each_listener_of_each_pod_has_the_limit() -> None:
    layer = json_format.MessageToDict(runtime_layer(["uid-1", "uid-2"], 20).layer)
    assert layer == {
        f"envoy.resource_limits.listener.{kind}|{uid}.connection_limit": 20
        for uid in ("uid-1", "uid-2")
        for kind in ("tunnel-in", "plain-in", "outbound")
    }
    assert len(layer) == 2 * len(PORT_SETS[0]) == 2 * len(Role)


def test_without_a_limit_on_memory_the_heap_is_not_watched() -> None:
    manager = _overload_manager(Limits(connections=7))
    assert "actions" not in manager
    [monitor] = manager["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == 7


def test_with_a_limit_on_memory_new_connections_are_refused_before_it_is_used_up() -> None:
    manager = _overload_manager(Limits(connections=7, heap_bytes=GIB))
    assert manager["resource_monitors"][1]["typed_config"]["max_heap_size_bytes"] == GIB
    at = {
        action["name"].rpartition(".")[2]: action["triggers"][0]["threshold"]["value"]
        for action in manager["actions"]
    }
    assert at["shrink_heap"] < at["reject_incoming_connections"] < 1


def _overload_manager(limits: Limits) -> dict[str, Any]:
    made = bootstrap(
        node_id="n",
        ads_socket=PATH,
        admin_socket=PATH,
        worker_socket=PATH,
        reset_socket=PATH,
        limits=limits,
    )
    return dict(made["overload_manager"])
