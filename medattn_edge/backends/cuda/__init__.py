"""CUDA memory, events and graphs, for every backend that runs on an NVIDIA GPU."""
