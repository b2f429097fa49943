"""What people and programs see of a phase: terminal tables, JSON, progress, logs."""
