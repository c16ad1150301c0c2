"""Envoy, the one proxy of a node: its configuration, its process, and its reports.

`SnapshotKeeper` turns a node's view of the mesh into resources (pure); `AdsServer` serves them to
Envoy; `EnvoyProcess` keeps it running; `AccessLogPipe` turns its access log into values
(`ConnectionReport`), and `OverflowWatch` its counters; `Worker` says when a configuration is in
force.
"""
