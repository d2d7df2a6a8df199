"""Ten clients of a Triton server at once: what each of the cases of an .npz file is answered.

Run by the Python that has Triton's client: ADDRESS MODEL GIVEN.npz ANSWERS.npz.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tritonclient.http as http

CLIENTS = 10


def main(address, model, given_path, answers_path):
    given = np.load(given_path)
    count = len({name.partition(".")[0] for name in given.files})

    def share(client):
        """The answers to every tenth case, from a connection of its own."""
        connection = http.InferenceServerClient(address)
        answers = {}
        for number in range(client, count, CLIENTS):
            inputs = [as_input(name, given[f"{number}.{name}"]) for name in ("image", "class_ids")]
            result = connection.infer(model, inputs)
            for output in result.get_response()["outputs"]:
                answers[f"{number}.{output['name']}"] = result.as_numpy(output["name"])
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = {
            name: value for part in pool.map(share, range(CLIENTS)) for name, value in part.items()
        }
    (statistics,) = http.InferenceServerClient(address).get_inference_statistics(model)[
        "model_stats"
    ]
    np.savez(answers_path, executions=statistics["execution_count"], **answers)


def as_input(name, values):
    found = http.InferInput(name, values.shape, "FP32" if values.dtype == np.float32 else "INT64")
    found.set_data_from_numpy(values)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
