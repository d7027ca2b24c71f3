"""A job and its operator: command line, config file, signals, and the words it speaks in."""
