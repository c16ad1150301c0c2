"""Queries to a running mesh: on this machine by its control socket, in a cluster by reviews."""
