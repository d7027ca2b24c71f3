"""Other engines, each in a process and perhaps an environment of its own, behind a pipe."""
