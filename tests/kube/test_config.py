"""Which cluster is meant, as kubectl would have it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from troth.errors import EnvironmentLackError, InputError
from troth.kube.config import cluster_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a kubeconfig with contexts of the given names; nothing else leads to a cluster."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def kubeconfig(file: str, *contexts: str, current: str = "", **user: Any) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "clusters": [
                        {"name": name, "cluster": {"server": f"https://{name}.{file}"}}
                        for name in contexts
                    ],
                    "contexts": [
                        {"name": name, "context": {"cluster": name, "user": "me"}}
                        for name in contexts
                    ],
                    "users": [{"name": "me", "user": user}],
                    "current-context": current,
                }
            )
        )
        return path

    return kubeconfig


def listed(*paths: Path) -> str:
    return os.pathsep.join(map(str, paths))


def test_the_file_given_counts_and_its_current_context(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write("other", "c", current="c")))
    config = cluster_config(write("mine", "a", "b", current="b"))
    assert (config.context_name, config.cluster.server) == ("b", "https://b.mine")


def test_a_context_is_chosen_by_name(write: Callable[..., Path]) -> None:
    assert cluster_config(write("mine", "a", "b", current="b"), "a").context_name == "a"


def test_of_the_files_in_kubeconfig_the_first_to_say_something_counts(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = write("first", "a"), write("second", "a", "b", current="b")
    monkeypatch.setenv("KUBECONFIG", listed(tmp_path / "missing", first, second))
    assert cluster_config().cluster.server == "https://b.second"
    assert cluster_config(context="a").cluster.server == "https://a.first"


def test_the_usual_file_is_read_without_any(write: Callable[..., Path]) -> None:
    write("home/.kube/config", "home", current="home")
    assert cluster_config().context_name == "home"


def test_paths_in_a_kubeconfig_are_relative_to_it(write: Callable[..., Path]) -> None:
    path = write("dir/config", "a", current="a", **{"client-certificate": "me.crt"})
    user = cluster_config(path).user
    assert user is not None
    assert user.client_cert == str(path.parent / "me.crt")


def test_a_credential_plugin_of_v1_is_run_and_told_so(write: Callable[..., Path]) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "get-token"}
    user = cluster_config(write("config", "a", current="a", exec=plugin)).user
    assert user is not None
    assert user.exec is not None
    assert user.exec.apiVersion.endswith("/v1beta1")
    (info,) = user.exec.env or []
    assert json.loads(info.value)["apiVersion"] == plugin["apiVersion"]


def test_a_context_that_is_nowhere_is_named_with_the_nearest(write: Callable[..., Path]) -> None:
    path = write("config", "staging", "production", current="staging")
    with pytest.raises(InputError, match=r"context producton: .*did you mean production\?"):
        cluster_config(path, "producton")


def test_a_file_that_is_given_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        cluster_config(tmp_path / "missing")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[", id="no YAML"),
        pytest.param("- a", id="a list"),
        pytest.param("contexts: [{name: a}]", id="half a context"),
        pytest.param("clusters: 3", id="clusters of another type"),
        pytest.param("\x00", id="a zero byte"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(EnvironmentLackError, match=rf"{path} can't be used as kubeconfig"):
        cluster_config(path)


@pytest.mark.parametrize("missing", ["clusters", "users"])
def test_a_context_of_what_is_not_described_is_refused(
    write: Callable[..., Path], missing: str
) -> None:
    path = write("config", "a", current="a")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {missing: None}))
    with pytest.raises(EnvironmentLackError, match="which no kubeconfig describes"):
        cluster_config(path)


@pytest.mark.usefixtures("write")
def test_without_anything_it_says_how_to_name_a_cluster() -> None:
    with pytest.raises(EnvironmentLackError, match="no kubeconfig; name a kubeconfig with"):
        cluster_config()


def test_a_kubeconfig_without_a_current_context_needs_one_named(
    write: Callable[..., Path],
) -> None:
    with pytest.raises(EnvironmentLackError, match="no context is chosen; use --context"):
        cluster_config(write("config", "a"))
