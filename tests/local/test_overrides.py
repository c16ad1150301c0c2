from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from troth.errors import InputError
from troth.local.overrides import aimless, overridden, parse_command, read_overrides
from troth.manifests.collect import Manifests
from troth.manifests.workloads import Container, Deployment, EnvVar, PodTemplate

if TYPE_CHECKING:
    from pathlib import Path

    from troth.control.state_dir import ContainerOverride

WEB = Deployment(
    namespace="shop",
    name="web",
    template=PodTemplate(
        namespace="shop",
        name="web",
        containers=(
            Container(name="app", args=("--port=80",), env=(EnvVar(name="A", value="1"),)),
            Container(name="side", command=("side",)),
        ),
    ),
)
MANIFESTS = Manifests(deployments={"shop/web": WEB})


def _containers(*overrides: ContainerOverride) -> tuple[Container, ...]:
    return overridden(MANIFESTS, overrides).deployments["shop/web"].template.containers


def test_a_command_is_the_first_containers_and_its_args_stay() -> None:
    app, side = _containers(parse_command("shop/web=python3 'my app.py'"))
    assert (app.command, app.args) == (("python3", "my app.py"), ("--port=80",))
    assert side.command == ("side",)


def test_a_container_may_be_named() -> None:
    app, side = _containers(parse_command("shop/web/side=sleep infinity"))
    assert (app.command, side.command) == ((), ("sleep", "infinity"))


@pytest.mark.parametrize("text", ["shop/web", "web=x", "shop/web=", "shop/web='x", "a/b/c/d=x"])
def test_a_command_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--command"):
        parse_command(text)


def test_a_file_replaces_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "overrides.yaml"
    file.write_text(
        "shop/web: {command: [app], args: [], env: {A: '2', B: '3'}, workingDir: /srv}\n"
        "shop/web/side: {args: [-v]}\n"
    )
    app, side = _containers(*read_overrides(file))
    assert (app.command, app.args, app.working_dir) == (("app",), (), "/srv")
    assert {each.name: each.value for each in app.env} == {"A": "2", "B": "3"}
    assert (side.command, side.args) == (("side",), ("-v",))


def test_what_is_wrong_in_a_file_is_all_told(tmp_path: Path) -> None:
    file = tmp_path / "overrides.yaml"
    file.write_text("web: {command: [app]}\nshop/web: {command: app}\n")
    with pytest.raises(InputError) as caught:
        read_overrides(file)
    assert "web: is no name of a workload" in str(caught.value)
    assert "command" in str(caught.value)


def test_an_override_of_nothing_is_told() -> None:
    assert list(aimless(MANIFESTS, [parse_command("shop/web/app=x")])) == []
    (problem,) = aimless(MANIFESTS, [parse_command("shop/web/nobody=x")])
    assert problem.subject == "override of shop/web/nobody"
