"""Our memory: runs, units, rows (the id map) and before-images, beside the data they describe."""
