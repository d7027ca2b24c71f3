"""A finished run's rows again, in files of another size, by partitions, or appended to a Delta table."""
