"""Drafting: from a look at both sides to a declaration that somebody settles."""
