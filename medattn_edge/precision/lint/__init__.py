"""What a runtime will make of a quantised graph, known before it is built."""
