"""ONNX -> ONNX: the same network in fewer bits, with the proof that it still says the same."""
