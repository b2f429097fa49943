"""Measurements: resettle beside the limit, and beside other tools, on the same rows and the same server."""
