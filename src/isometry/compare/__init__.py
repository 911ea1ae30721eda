"""Runs in; table, statistics, pictures and pages out."""
