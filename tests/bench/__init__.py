"""The benchmark's own parts: what they read, count and draw."""
