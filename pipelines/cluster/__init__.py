"""Ray as the jobs use it: session, resources, the board between driver and actors, locks, failures."""
