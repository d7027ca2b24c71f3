"""A run while it goes on: progress, metrics, warnings, draining, inspection."""
