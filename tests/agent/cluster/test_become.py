from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from troth.agent.cluster.settings import (
    CniFolders,
    NodeSettings,
    OnUncaptured,
    become_node,
    settings_told,
)
from troth.identity.spiffe import TrustDomain
from troth.sockets import ListenAddress


def test_the_agents_process_is_told_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = NodeSettings(
        node_name="node-1",
        trust_domain=TrustDomain("example.org"),
        kubeconfig=Path("/etc/kube config"),
        run_dir=Path("/run/other"),
        root_namespace="mesh-root",
        namespace="mesh-system",
        health_socket=Path("/run/health"),
        drain_seconds=1.5,
        metrics=ListenAddress(host="::1", port=9464),
        cri_socket=Path("/run/cri.sock"),
        pod_connections=7,
        memory=2**30,
        keepalive_seconds=30,
        announcement_seconds=0.5,
        startup_taint=True,
        uncaptured=OnUncaptured.EVICT,
        cni=CniFolders(
            program=Path("/cni/program"),
            programs=Path("/cni/bin"),
            configurations=Path("/cni/net.d"),
            state=Path("/cni/state.json"),
            exempt=("boot",),
        ),
    )
    usual = NodeSettings(node_name="", trust_domain=TrustDomain("cluster.local"))
    for name in NodeSettings.__struct_fields__:
        assert getattr(settings, name) != getattr(usual, name), f"give {name} another value"
    executed: list[str] = []

    def execv(_: str, argv: list[str]) -> NoReturn:
        executed.extend(argv)
        raise SystemExit

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        become_node(settings)
    assert settings_told(executed[4:]) == settings


def test_the_agents_process_has_nothing_that_is_for_people_alone() -> None:
    program = (
        "import sys; from troth.agent.cluster import __main__ as program;"
        "program._load_structlog();"
        "import troth.agent.cluster.run;"
        "print(*{'pydantic', 'pygments', 'rich', 'typer', 'troth.cli'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
