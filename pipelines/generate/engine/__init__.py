"""The engine as an actor runs it: in a thread of its own, watched."""
