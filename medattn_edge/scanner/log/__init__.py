"""What a node says of itself in lines of JSON, without identifiers."""
