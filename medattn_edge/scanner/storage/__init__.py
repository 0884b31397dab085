"""The files of a node, durable, and together with the rows."""
