"""One mesh for all servers that are asked for, and the places in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Host, Mesh, eventually
from tests.servers.manifests import in_both, pod
from tests.servers.places import PLACES, Place, Pods, find_place

from troth.control.protocol import call
from troth.control.state_dir import StateDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.servers)
            item.add_marker(pytest.mark.timeout(400))  # the first one waits for all servers


@pytest.fixture(scope="session")
def pods(request: pytest.FixtureRequest) -> Iterator[Pods]:
    """The pods of every module that has tests to run, in two namespaces; all are ready."""
    modules: dict[Any, None] = dict.fromkeys(
        getattr(item, "module", None) for item in request.session.items
    )
    makers = [module.objects for module in modules if hasattr(module, "objects")]

    def objects(namespace: str) -> Iterator[dict[str, Any]]:
        yield pod(f"{namespace}/client")
        for make in makers:
            yield from make(namespace)

    with Host() as host, _PatientMesh(host, in_both(objects)) as mesh:
        try:
            eventually(lambda: not _unready(mesh), seconds=300, what="all pods' readiness")
            mesh.wait_ready()
        except AssertionError as error:
            for name in _unready(mesh):
                said = mesh.troth("logs", name, check=False).stdout
                error.add_note(f"--- {name}\n{said[-2000:]}")
            raise
        running = Pods(mesh)
        yield running
        running.close()


# Names are of the session, so that pytest does all that is to be done in a place before the next.


@pytest.fixture(scope="session", params=PLACES)
def place_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(place_name: str, pods: Pods) -> Place:
    """Each place where a server may be called, in turn."""
    return find_place(pods, place_name)


@pytest.fixture(
    scope="session", params=[name for name, (_, one, other) in PLACES.items() if one == other]
)
def home_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(home_name: str, pods: Pods) -> Place:
    """Each place that has all of a cluster of servers, in turn."""
    return find_place(pods, home_name)


@pytest.fixture(
    scope="session", params=[name for name, (_, one, other) in PLACES.items() if one != other]
)
def border_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def border(border_name: str, pods: Pods) -> Place:
    """Each place where servers and clients are on different sides of the mesh's border, in turn."""
    return find_place(pods, border_name)


@pytest.fixture
def inside(pods: Pods) -> Place:
    """The place inside the mesh, PERMISSIVE to begin with."""
    return find_place(pods, "PERMISSIVE")


class _PatientMesh(Mesh):
    """A mesh of pods that take longer than `troth up --detach` waits for.

    Its status is asked for hundreds of times, so it is had without a command.
    """

    def up(self) -> None:
        self.troth("up", "--detach", *self.options, str(self.directory), check=False)

    def status(self) -> dict[str, Any]:
        (report,) = call(StateDirectory(self.state).control, "status")
        return report


def _unready(mesh: Mesh) -> list[str]:
    return [
        f"{pod['namespace']}/{pod['name']}" for pod in mesh.status()["pods"] if not pod["ready"]
    ]
