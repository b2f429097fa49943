"""What is truly about batches and wraps a connector: read-only targets, reading ahead, isolating bad units."""
