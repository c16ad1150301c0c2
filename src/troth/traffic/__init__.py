"""Connections and their outcomes: read once from Envoy's log, named once, and then immutable."""
