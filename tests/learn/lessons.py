"""A lesson to change in tests."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

TRY = {"from": "shop/till", "to": "bank/ledger", "port": 80}
TRACKED = {"a_certificate": "not sent", "b_certificate": "not sent", "connection": "none"}
STEP = {"action": "A connects", "a": "waits", "b": "waits", "result": "nothing", **TRACKED}
POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: bank}
spec: {mtls: {mode: STRICT}}
"""


def question(name: str = "who", **changes: Any) -> dict[str, Any]:
    options = {
        "A": {"text": "in", "predicts": [{"happens": "tunnel"}]},
        "B": {"text": "out", "predicts": [{"happens": "refused"}], "mistake": "no"},
    }
    return {
        "id": name,
        "level": "easy",
        "ask": "What happens?",
        "tries": [TRY],
        "options": options,
        "answer": "A",
        "hints": ["one", "two", "three"],
        "solution": "in",
        **changes,
    }


def writing(name: str = "write", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "level": "easy",
        "ask": "Write the manifest.",
        "tries": [{**TRY, "should": {"happens": "tunnel"}}],
        "manifest": POLICY,
        "mistakes": [{"mistake": "nothing is said", "policy": POLICY}],
        "hints": ["one", "two", "three"],
        "solution": "STRICT",
        **changes,
    }


def lesson(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "title": "A lesson",
            "order": 1,
            "topic": "modes",
            "question": "What is it?",
            "mesh": "bank",
            "a": "shop/till",
            "b": "bank/ledger",
            "flow": [{"who": "A", "does": "connects"}, {"who": "both", "does": "talk"}],
            "tries": [{**TRY, "should": {"happens": "tunnel"}}],
            "start": TRACKED,
            "steps": [STEP, STEP],
            "moments": [{"asks": "Why?", "why": "Because."}],
            "questions": [question("picture")],
            "snapshot": ["It is so."],
            "transcript": "It is so.",
            "tasks": [question(), writing()],
            **changes,
        }
    )


def write(directory: Path, value: object, name: str = "first") -> Path:
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(value, sort_keys=False))
    return file
