"""What a node says of itself: log, page, metrics; and what can be seen of one from outside."""
