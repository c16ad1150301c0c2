"""A one-node mesh from ordinary manifests: pods as processes in their own network namespaces.

The command line sees a mesh from outside its namespaces (`Outside`, `call`); everything that runs
a mesh is behind `run`, inside them.
"""
