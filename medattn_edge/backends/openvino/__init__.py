"""OpenVINO: artifact to session, ONNX to IR, and what its CPU plugin really executes."""
