"""Verifying: what is there, compared with what should be, without believing what a run said of itself."""
