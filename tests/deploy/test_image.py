"""What can be said of the Dockerfile without building it."""

from __future__ import annotations

import re

import pytest
from tests.deploy.image import REPOSITORY, instructions, packages


def arguments(name: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == name]


def copied() -> list[str]:
    """What comes from the repository."""
    lines = [words.split() for words in arguments("COPY")]
    return [source for words in lines if "--from=" not in words[0] for source in words[:-1]]


def test_all_that_is_copied_is_there() -> None:
    assert copied()
    assert [source for source in copied() if not (REPOSITORY / source).exists()] == []


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line[1:] for line in patterns if line.startswith("!")} == set(copied())


@pytest.mark.parametrize(
    "command",
    [
        each
        for words in arguments("RUN")
        for each in words.split(" && ")
        if re.match(r"pip\b", each)
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_every_package_is_checked_against_its_hash(command: str) -> None:
    from_network = "--no-index" not in command
    assert from_network is ("--require-hashes" in command and "-r requirements.txt" in command)


def test_what_it_installs_is_what_is_unpacked_for_the_image_without_an_engine() -> None:
    (command,) = [words for words in arguments("RUN") if "apt-get install" in words]
    assert packages()
    assert [each for each in packages() if f" {each} " not in command] == []


def test_it_runs_as_a_plain_user_unless_told_otherwise() -> None:
    names = [instruction for instruction, _ in instructions()]
    assert arguments("USER") == ["65532:65532"]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name == "FROM")


def test_nothing_in_it_is_of_one_architecture() -> None:
    said = " ".join(words for _, words in instructions())
    for word in ("amd64", "arm64", "x86_64", "aarch64", "--platform"):
        assert word not in said
