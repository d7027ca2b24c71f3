"""Bulk generation pipelines on Ray."""
