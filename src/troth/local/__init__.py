"""A one-node mesh from ordinary manifests: pods as processes in their own network namespaces.

The command line sees a mesh from outside its namespaces (`troth.local.outside`, and what asks it,
`troth.control`); everything that runs a mesh is behind `troth.local.run`, inside them.
"""
