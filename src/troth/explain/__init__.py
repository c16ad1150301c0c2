"""Answers about a set of manifests: is it valid, which modes apply, what would a change do.

Everything here is pure: `troth.manifests.collect.Manifests` in, values with a stable JSON form out.
Each report names its form in ``schema``; docs/json.md describes them.
"""
