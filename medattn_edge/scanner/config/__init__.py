"""What a node is configured with, and which model takes a series."""
