"""What a node has on record: rows in one SQLite file, and the only ways in which they change."""
