"""ConnectionReviews: questions to the node agents of a cluster about connections of a namespace.

Here are the objects and what follows from them, all of it pure. `troth.reviews.agent` answers
them, `troth.reviews.asker` asks.
"""
