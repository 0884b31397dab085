"""What a node keeps: rows in one SQLite file, durable files beside them, and both changed together."""
