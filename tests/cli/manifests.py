"""A namespace of the mesh and a pod outside of it."""

from __future__ import annotations

WORLD = """\
apiVersion: v1
kind: Namespace
metadata: {name: finance, labels: {troth.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: finance, labels: {app: web}}
spec: {containers: [{name: main, image: app, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cron, namespace: legacy}
spec: {containers: [{name: main, image: app}]}
"""
