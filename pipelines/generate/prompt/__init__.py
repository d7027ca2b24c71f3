"""Rows to prompts: templates, chat template, tokens, and the options of a row."""
