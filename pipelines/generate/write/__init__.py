"""Completions to files: filters, repairs, the unit file and its footer."""
