"""Rows decoded again in plain AR: which, how, and what was found."""
