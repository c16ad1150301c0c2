"""Controllers of pods beside the Deployment: what a database, its backup and its migration need."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Host, Mesh, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {troth.dev/mesh: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8000}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: db
        command:
        - sh
        - -c
        - hostname >/data/name; exec python3 -m http.server 8000 --directory /data
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /name, port: http}}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
MIGRATION = """\
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: shop}
spec:
  template:
    spec:
      restartPolicy: Never
      initContainers:
      - name: wait
        command: [sh, -c, "until curl -sf db-1.db:8000/name; do sleep 0.1; done"]
      containers:
      - name: migrate
        command: [sh, -c, "curl -sf db-0.db.shop.svc.cluster.local:8000/name"]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: backups, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: shop}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          volumes: [{name: to, persistentVolumeClaim: {claimName: backups}}]
          containers:
          - name: backup
            command: [sh, -c, "curl -sf db-0.db:8000/name -o /to/name"]
            volumeMounts: [{name: to, mountPath: /to}]
"""
DAEMONS = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec:
  selector: {matchLabels: {app: agent}}
  template: &pods
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old, namespace: shop}
spec:
  replicas: 2
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: old, command: [sleep, infinity]}]}
"""


@pytest.fixture(scope="module")
def shop(shared_host: Host) -> Iterator[Mesh]:
    files = {"database.yaml": DATABASE, "jobs.yaml": MIGRATION, "daemons.yaml": DAEMONS}
    with Mesh(shared_host, files, plain=True) as running:
        yield running


def _pods(mesh: Mesh) -> dict[str, Any]:
    return {f"{each['namespace']}/{each['name']}": each for each in mesh.status()["pods"]}


def test_the_pods_of_a_stateful_set_have_names_and_data_of_their_own(shop: Mesh) -> None:
    for pod in ("db-0", "db-1"):
        assert shop.fetch("shop/agent-0", f"http://{pod}.db:8000/name") == f"{pod}\n"


def test_a_daemon_set_has_one_pod_and_a_replication_controller_as_many_as_it_says(
    shop: Mesh,
) -> None:
    assert {"shop/agent-0", "shop/old-0", "shop/old-1"} <= _pods(shop).keys()
    assert "shop/agent-1" not in _pods(shop)


def test_a_job_waits_works_and_is_complete_and_the_mesh_goes_on(shop: Mesh) -> None:
    eventually(lambda: _pods(shop)["shop/migrate-0"]["phase"] == "Succeeded", what="the Job's end")
    assert shop.troth("logs", "shop/migrate").stdout == "db-0\n"
    shop.wait_ready()


def test_a_cron_job_runs_when_its_time_comes_and_its_claim_outlives_its_pod(shop: Mesh) -> None:
    def has_run() -> bool:
        runs = [each for name, each in _pods(shop).items() if name.startswith("shop/backup-")]
        return any(each["phase"] == "Succeeded" for each in runs)

    eventually(has_run, what="the backup")
    (copy,) = shop.state.glob("claims/shop/backups/name")
    assert copy.read_text() == "db-0\n"


def test_the_next_pod_of_a_stateful_set_waits_for_the_one_before_it(host: Host) -> None:
    manifest = DATABASE.replace("/name, port", "/nothing, port")
    with Mesh(host, {}) as mesh:
        mesh.write("database.yaml", manifest)
        waits = "shop/db-1: shop/db-0 is not ready"
        eventually(lambda: waits in mesh.status()["waiting_for"], what=waits)
        assert "shop/db-1" not in _pods(mesh)
        mesh.write("database.yaml", DATABASE)
        eventually(lambda: "shop/db-1" in _pods(mesh), what="the second pod")


def test_claims_that_are_kept_in_a_directory_are_there_for_the_next_mesh(host: Host) -> None:
    mesh = Mesh(host, {"database.yaml": DATABASE})
    claims = mesh.home / "claims"
    claims.mkdir()
    mesh.options = ("--claims", str(claims))
    with mesh:
        assert (claims / "shop/data-db-0/name").read_text() == "db-0\n"
        (claims / "shop/data-db-0/kept").write_text("kept\n")
        mesh.troth("down", "--now")
        mesh.up()
        mesh.wait_ready()
        assert mesh.exec("shop/db-0", "cat", "/data/kept").stdout == "kept\n"


def test_a_job_that_fails_too_often_is_named_with_the_reason(host: Host) -> None:
    failing = json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "broken"},
            "spec": {
                "backoffLimit": 1,
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "app", "command": ["false"]}],
                    }
                },
            },
        }
    )
    with Mesh(host, {}) as mesh:
        mesh.write("job.json", failing)
        reason = (
            "default/broken: the Job has failed: BackoffLimitExceeded: it failed more often than "
            "backoffLimit, 1"
        )
        eventually(lambda: reason in mesh.status()["waiting_for"], what=reason)
        assert sorted(_pods(mesh)) == ["default/broken-0", "default/broken-1"]


def test_containers_without_a_command_run_what_is_given_for_them(host: Host) -> None:
    image = "kind: Pod\napiVersion: v1\nmetadata: {name: app}\nspec:\n  containers:\n"
    mesh = Mesh(host, {"app.yaml": f"{image}  - {{name: a, args: [said]}}\n  - {{name: b}}\n"})
    given = mesh.home / "overrides.yaml"
    given.write_text("default/app/b: {command: [sh, -c, 'echo $SAID'], env: {SAID: more}}\n")
    mesh.options = ("--command", "default/app=echo it was", "--overrides", str(given))
    try:
        mesh.troth("up", "--detach", *mesh.options, str(mesh.directory), check=False)
        said = {"a": "it was said\n", "b": "more\n"}
        for name, text in said.items():

            def logged(name: str = name, text: str = text) -> bool:
                logs = mesh.troth("logs", "default/app", "-c", name, check=False)
                return logs.stdout == text

            eventually(logged, what=text)
    finally:
        mesh.__exit__()
