"""What is planned, committed and damaged, as the output directory tells it."""
