"""Envoy, the one proxy of a node: what it is told, that it runs, and what it reports.

`SnapshotKeeper` turns a node's view of the mesh into resources (pure); `AdsServer` hands them to
Envoy; `EnvoyProcess` keeps it running; `AccessLogPipe` turns its access log into values
(`ConnectionReport`), and `OverflowWatch` its counters; `Worker` says when what Envoy was told is in
force.
"""
