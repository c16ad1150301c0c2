"""The API client: lists, watches and changes objects of a Kubernetes API server."""
