"""What became of connections: read once from Envoy's log, named once, and kept as they are."""
