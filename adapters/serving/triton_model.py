"""A camcore file behind Triton's Python backend: copied beside the file as `model.py`.

Needs onnxruntime and NumPy in Triton's Python, neither camcore nor PyTorch. Requests that arrive
together are run together where their inputs agree in shape.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Not of a detector, whose file takes one image.
        self.batched = json.loads(args["model_config"])["max_batch_size"] > 0
        gpu = args["model_instance_kind"] == "GPU"
        providers = ["CUDAExecutionProvider"] if gpu else ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers)
        self.inputs = [port.name for port in self.session.get_inputs()]
        self.outputs = [port.name for port in self.session.get_outputs()]

    def execute(self, requests):
        feeds = [
            {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self.inputs
            }
            for request in requests
        ]
        alike = defaultdict(list)
        for number, feed in enumerate(feeds):
            shapes = tuple(value.shape[1:] for value in feed.values())
            alike[shapes if self.batched else number].append(number)
        responses = [None] * len(requests)
        for numbers in alike.values():
            for number, response in zip(
                numbers, self.run([feeds[n] for n in numbers]), strict=True
            ):
                responses[number] = response
        return responses

    def run(self, feeds):
        """Responses to requests whose inputs agree in all but their number of rows."""
        rows = [len(feed[self.inputs[0]]) for feed in feeds]
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        try:
            outputs = self.session.run(self.outputs, together)
        except Exception as error:
            failed = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse(error=failed) for _ in feeds]
        parts = [np.split(output, np.cumsum(rows)[:-1]) for output in outputs]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.ascontiguousarray(part))
                    for name, part in zip(self.outputs, each, strict=True)
                ]
            )
            for each in zip(*parts, strict=True)
        ]
