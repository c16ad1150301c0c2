"""Manifests on disk, read and watched: files in, typed objects out, the last good version kept."""
