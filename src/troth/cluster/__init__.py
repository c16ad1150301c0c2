"""Turns a cluster's objects, followed or read once, into the world of a mesh."""
