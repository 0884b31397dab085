"""What a runtime will make of a quantised graph, told before it is built."""
