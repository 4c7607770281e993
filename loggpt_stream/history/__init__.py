"""Recorded logs, from files or a topic, read to closed sessions with the daemon's own decoder and Sessionizer."""
