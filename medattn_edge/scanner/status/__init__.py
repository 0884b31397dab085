"""What a node shows: page, JSON, metrics; and what can be seen of one from outside."""
