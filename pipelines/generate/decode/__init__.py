"""Prompts to completions: the actor and what it is told."""
