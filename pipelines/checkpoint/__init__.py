"""The directory of a model, and the copy that a machine keeps of one in object storage."""
