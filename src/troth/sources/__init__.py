"""Where the world comes from: manifests on disk or the Kubernetes API, the last good kept."""
