"""Answers about a set of manifests: is it right, what holds for a workload, what would a change do.

Everything here is pure: `troth.manifests.collect.Manifests` in, values with a stable JSON form out.
Each report names its own form in ``schema``; docs/json.md describes them.
"""
