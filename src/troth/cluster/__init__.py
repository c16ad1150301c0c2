"""A cluster's objects, followed or read once, become the world of a mesh."""
