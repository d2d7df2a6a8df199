"""Run in a fresh interpreter: seconds from the first import to the first result, as JSON.

usage: python first_run.py camcore|onnxruntime FILE IMAGE.npy
"""

import json
import sys
import time


def main(contender: str, file: str, image_file: str) -> None:
    start = time.perf_counter()
    import numpy as np

    image = np.load(image_file)
    if contender == "camcore":
        from camcore.adapters import load

        scores = load(file)(image).scores
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (scores,) = session.run(["scores"], {"image": image})
    seconds = time.perf_counter() - start
    assert np.isfinite(scores).all()
    print(json.dumps({"seconds": seconds, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
