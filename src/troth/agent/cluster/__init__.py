"""The node agent in a cluster: fed by the Kubernetes API, capturing pods that a kubelet runs.

It is a process of its own (`troth.agent.cluster.settings.become_node`), so that nothing the
command line needed stays in its memory.
"""
