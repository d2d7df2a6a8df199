"""ONNX: a model in an ONNX file, read as a PyTorch module whose layers have the file's names."""
