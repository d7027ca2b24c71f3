"""Options of the generate job."""
