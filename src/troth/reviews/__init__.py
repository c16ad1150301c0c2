"""ConnectionReviews: questions to the node agents of a cluster about connections of a namespace.

The objects are in `troth.reviews.objects`. `troth.reviews.responder` answers them,
`troth.reviews.asker` asks; what follows from the answers is pure.
"""
