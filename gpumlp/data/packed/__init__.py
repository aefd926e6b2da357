"""Rows that are too many for memory: encoded once, in blocks on disk with checksums, and read by blocks."""
