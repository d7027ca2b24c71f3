"""Input files to rows: listing them, cutting them into units, and the columns that rows have."""
