"""Machines and meshes for the end-to-end tests."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import Host, Mesh
from tests.e2e.policies import clients, wait_serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.client import Client
    from tests.e2e.lifetimes import MakeMesh


@pytest.fixture
def host() -> Iterator[Host]:
    """A machine of the test's own."""
    with Host() as machine:
        yield machine


@pytest.fixture
def make_mesh(host: Host) -> Iterator[MakeMesh]:
    """Meshes whose files go when the test has ended, whatever became of them."""
    with contextlib.ExitStack() as ended:

        def make(manifests: Mapping[str, str], *, plain: bool = False) -> Mesh:
            mesh = Mesh(host, manifests, plain=plain)
            ended.callback(shutil.rmtree, mesh.home, ignore_errors=True)
            return mesh

        yield make


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    """A machine for all tests of a module."""
    with Host() as machine:
        yield machine


@pytest.fixture(scope="module")
def mesh(shared_host: Host, manifests: Mapping[str, str]) -> Iterator[Mesh]:
    """A mesh for all tests of a module, from the module's own ``manifests``; all pods are ready."""
    with Mesh(shared_host, manifests) as running:
        wait_serving(running)
        yield running


@pytest.fixture(scope="module")
def web(mesh: Mesh) -> Iterator[Client]:
    """In the mesh."""
    with clients(mesh, "finance/web") as (client,):
        yield client


@pytest.fixture(scope="module")
def payments(mesh: Mesh) -> Iterator[Client]:
    """In the mesh."""
    with clients(mesh, "finance/payments") as (client,):
        yield client


@pytest.fixture(scope="module")
def cron(mesh: Mesh) -> Iterator[Client]:
    """Outside the mesh; what it knows of certificates is stolen."""
    with clients(mesh, "legacy/cron") as (client,):
        yield client
