"""TensorRT and TensorRT for RTX: ONNX to engine, engine to session."""
