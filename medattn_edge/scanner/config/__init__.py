"""What a node is told, and which model takes a series."""
