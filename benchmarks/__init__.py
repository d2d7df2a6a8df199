"""camcore beside plain onnxruntime and pytorch-grad-cam: `python -m benchmarks.gradcam`."""
