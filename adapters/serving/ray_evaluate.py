"""Ray: a file is evaluated on many machines."""

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from camcore.adapters.evaluation.annotations import AnnotatedImage
from camcore.adapters.evaluation.evaluate import Measure, evaluated, open_measure
from camcore.adapters.serving.cluster import mapped

_ANNOTATED, _ENTRY = "annotated", "entry"


def ray_evaluated(
    measure: Measure, images: Sequence[AnnotatedImage]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The record of each image and its path, in order, as `evaluation.evaluate.evaluated` has it.

    The cluster is that of `RAY_ADDRESS`, or this machine.
    """
    threads = measure.threads or 1
    by_actor = replace(measure, file=measure.file.absolute(), threads=threads)
    sent = [pickle.dumps(replace(image, path=image.path.absolute())) for image in images]
    columns = pa.table({_ANNOTATED: sent})
    tables = mapped(_Evaluate, by_actor, columns, measure.device, threads)
    texts = (text for table in tables for text in table[_ENTRY].to_pylist())
    for image, text in zip(images, texts, strict=True):
        yield image.path, json.loads(text)


class _Evaluate:
    """What makes records of annotated images."""

    def __init__(self, measure: Measure) -> None:
        self._batch = measure.batch
        self._runner, self._predict = open_measure(measure)

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        images = [pickle.loads(sent) for sent in batch[_ANNOTATED]]
        found = evaluated(self._runner, images, self._predict, self._batch)
        by_name = {entry["image"]: entry for _, entry in found}
        return pa.table({_ENTRY: [json.dumps(by_name[image.name]) for image in images]})
