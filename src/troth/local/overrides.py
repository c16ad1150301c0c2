"""What containers run instead of what their manifests say, as no image says it: pure.

``--command NAMESPACE/WORKLOAD[/CONTAINER]=COMMAND`` gives the entry point of one container, and a
file of ``--overrides`` that and more of several:

    shop/web: {command: [python3, app.py]}
    shop/web/proxy: {command: [sleep, infinity], args: [], env: {MODE: test}, workingDir: /srv}
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

from troth.control.state_dir import ContainerOverride
from troth.errors import InputError, Problem
from troth.fields import Fields, Report
from troth.manifests.workloads import EnvVar
from troth.manifests.yaml import read_documents
from troth.syntax import NAME, NAMESPACE, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import Container, PodTemplate

_WANTED = "write NAMESPACE/WORKLOAD or NAMESPACE/WORKLOAD/CONTAINER"
_FIELDS = ("command", "args", "env", "workingDir")


def parse_command(text: str) -> ContainerOverride:
    """``NAMESPACE/WORKLOAD[/CONTAINER]=COMMAND``, the command quoted as for a shell.

    Raises:
        InputError: It is something else.
    """
    target, equals, command = text.partition("=")
    report = Report("--command")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        report.error("", f"has {described(command)}: {error}", "quote it as for a shell")
        words = ()
    if not report.errors and not (equals and words):
        report.error("", f"is {described(text)}", f"{_WANTED}, = and a command")
    found = _target(target, report)
    if report.errors:
        raise InputError(report.problems)
    return msgspec.structs.replace(found, command=words)


def read_overrides(path: Path) -> tuple[ContainerOverride, ...]:
    """The overrides of a file.

    Raises:
        InputError: It can't be read, or something in it is wrong; all of it is listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        problem = Problem(
            subject=str(path), path="", found=f"cannot be read: {what}", wanted="name a YAML file"
        )
        raise InputError([problem]) from error
    documents, problems = read_documents(text, str(path))
    report = Report(str(path))
    found = [
        _override(top, target, report)
        for document in documents
        for top in (Fields(document.value, "", report, "shop/web: {command: [app]}"),)
        for target in top
    ]
    if problems or report.errors:
        raise InputError([*problems, *report.problems])
    return tuple(found)


def overridden(manifests: Manifests, overrides: Sequence[ContainerOverride]) -> Manifests:
    """The manifests with what is to be run instead."""
    if not overrides:
        return manifests

    def changed(template: PodTemplate) -> PodTemplate:
        return msgspec.structs.replace(
            template,
            containers=tuple(_changed(each, template, overrides) for each in template.containers),
            init_containers=tuple(
                _changed(each, template, overrides) for each in template.init_containers
            ),
        )

    return msgspec.structs.replace(
        manifests,
        pods={key: changed(each) for key, each in manifests.pods.items()},
        deployments={
            key: msgspec.structs.replace(each, template=changed(each.template))
            for key, each in manifests.deployments.items()
        },
        workloads={
            key: msgspec.structs.replace(each, template=changed(each.template))
            for key, each in manifests.workloads.items()
        },
    )


def aimless(manifests: Manifests, overrides: Iterable[ContainerOverride]) -> Iterator[Problem]:
    """Warn of overrides of containers that aren't there."""
    templates = [*manifests.pods.values()]
    controllers = (*manifests.deployments.values(), *manifests.workloads.values())
    templates += [each.template for each in controllers]
    for override in overrides:
        if not any(
            _is_meant(each, template, override)
            for template in templates
            for each in (*template.containers, *template.init_containers)
        ):
            found = "names no container of the manifests"
            yield Problem.warning(f"override of {override}", "", found, "correct the name")


def _changed(
    container: Container, template: PodTemplate, overrides: Iterable[ContainerOverride]
) -> Container:
    for override in overrides:
        if _is_meant(container, template, override):
            added = tuple(EnvVar(name=name, value=text) for name, text in override.env.items())
            others = tuple(each for each in container.env if each.name not in override.env)
            container = msgspec.structs.replace(
                container,
                command=override.command or container.command,
                args=container.args if override.args is None else override.args,
                env=(*others, *added),
                working_dir=override.working_dir or container.working_dir,
            )
    return container


def _is_meant(container: Container, template: PodTemplate, override: ContainerOverride) -> bool:
    """Whether it is the container; where none is named, the first one that isn't an init one."""
    if (template.namespace, template.name) != (override.namespace, override.workload):
        return False
    return container.name == (override.container or template.containers[0].name)


def _override(top: Fields, target: str, report: Report) -> ContainerOverride:
    found = _target(target, report)
    fields = top.fields(target, _FIELDS)
    env: Mapping[str, str] = fields.string_map("env")
    return msgspec.structs.replace(
        found,
        command=fields.strings("command"),
        args=fields.strings("args") if "args" in fields else None,
        env=env,
        working_dir=fields.string("workingDir"),
    )


def _target(text: str, report: Report) -> ContainerOverride:
    namespace, _, rest = text.partition("/")
    workload, _, container = rest.partition("/")
    if NAMESPACE.flaw(namespace) or NAME.flaw(workload) or (container and NAME.flaw(container)):
        report.error(text, "is no name of a workload or container", _WANTED)
    return ContainerOverride(namespace=namespace, workload=workload, container=container)
