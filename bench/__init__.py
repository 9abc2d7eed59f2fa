"""Measurements: real server, real PostgreSQL, ratios from one run."""
