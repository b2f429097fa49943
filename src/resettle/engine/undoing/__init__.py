"""Undoing: what a rollback takes back, what it leaves alone, and why."""
