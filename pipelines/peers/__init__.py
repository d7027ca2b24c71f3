"""Other engines, timed beside this one. Each runs in a process, and may run in an environment, of its own."""
