"""Functions of the user's that rows go through: found and sent, called on batches, around the unit tables."""
