"""The plan job: what a run will cost."""
