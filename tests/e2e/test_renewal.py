"""Certificates renewed under load: nobody notices."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.e2e import apps
from tests.e2e.apps import CLIENT, Session
from tests.e2e.harness import PYTHON, Mesh, eventually

if TYPE_CHECKING:
    from tests.e2e.harness import Host

pytestmark = pytest.mark.e2e

LIFETIME_SECONDS = 10
RENEWALS = 3  # after which the first certificate has expired


def test_renewals_of_both_ends_certificates_fail_no_request_and_drop_no_connection(
    host: Host,
) -> None:
    manifests = {
        "shop.yaml": apps.namespace("shop") + apps.idle_pod("client", namespace="shop"),
        "server.yaml": apps.server("server", namespace="shop"),
        "policy.yaml": apps.policy("STRICT", namespace="shop"),
    }
    options = ("--certificate-lifetime", str(LIFETIME_SECONDS))
    with Mesh(host, manifests, options=options) as mesh:
        eventually(lambda: mesh.fetch("shop/client", f"http://server:{apps.HTTP}/"))
        load = mesh.start(
            "shop/client",
            *(PYTHON, CLIENT, "load", "server", str(apps.HTTP)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with load, Session(mesh, "shop/client", "server") as session:
            expiries: dict[str, set[str]] = {}

            def renewed() -> bool:
                session.ask("are you there?")
                for pod in mesh.status()["pods"]:
                    expiries.setdefault(pod["identity"], set()).add(pod["certificate_expires"])
                return all(len(seen) > RENEWALS for seen in expiries.values())

            eventually(renewed, seconds=RENEWALS * LIFETIME_SECONDS, what="the renewals")
            seen = json.loads(load.communicate("")[0])
            assert session.end() == 0
        assert len(expiries) == len(("client", "server"))
        assert seen.pop("failures") == []
        assert min(seen.values()) > 0, seen
        seen = [event for event in mesh.events() if event["reason"] != "no_endpoints"]
        assert {event["outcome"] for event in seen} == {"accepted"}
