"""NAME.triton: a model that a Triton server on another host computes, opened like any artifact."""
