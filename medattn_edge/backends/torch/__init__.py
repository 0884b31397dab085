"""The backends that run in PyTorch: eager, TorchScript and torch-TensorRT."""
