"""The cluster's controller: signs for node agents, keeps the root, and says what is enforced.

Only the leader of its replicas works. The rules (whom to sign for, who leads, how a root is
replaced, what a status says) are pure; separate modules apply them over the Kubernetes API.
"""
