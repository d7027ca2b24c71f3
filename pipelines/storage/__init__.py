"""Files on disk and in object storage: reading, listing, and putting in one atomic step."""
