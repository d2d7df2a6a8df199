"""`camcore train`: a classifier of several labels, fine-tuned on annotated images."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths
from camcore.adapters.cli.arguments import ImageFolder, Model, Size, Weights, parse_size
from camcore.adapters.cli.console import counting, out, working
from camcore.adapters.cli.preparation import (
    Colour,
    Crop,
    Interpolation,
    Mean,
    Resize,
    Std,
    as_asked,
    preparation_fields,
    tell_assumptions,
)
from camcore.adapters.extras import needs
from camcore.adapters.files import writing
from camcore.errors import InputError


def train(
    model: Model,
    images: ImageFolder,
    annotations: Annotated[
        Path, typer.Option(help="A COCO JSON file (instances.json), or a folder of VOC XML files.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where the weights go, .safetensors; class names beside it."
        ),
    ],
    weights: Weights = "DEFAULT",
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    colour: Colour = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each image is learnt from.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Images that are learnt from at once.")] = 32,
    learning_rate: Annotated[
        float, typer.Option(help="The highest, which is reached a tenth of the way.")
    ] = 3e-4,
    held_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="The share of the images that is not learnt from, but shows how good the model "
            "has become.",
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Others give another order of the images.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 2,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where to train; cuda in half precision.")
    ] = "cpu",
) -> None:
    """Fine-tune a classifier to tell which of several classes are in an image.

    - `camcore train resnet50 --images train2017 --annotations instances_train2017.json -o coco.safetensors`

    - `camcore train mymodels:build_net --images JPEGImages --annotations Annotations -o voc.safetensors`

    The model's last layer becomes one of as many scores as there are categories. Of the annotations
    nothing but their categories is learnt from: boxes are for camcore evaluate.

    Behind each epoch a checkpoint is written beside the weights; the same command goes on from
    there if it was stopped.
    """  # noqa: E501  # a command is one line
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: expected a name that ends in .safetensors")
    names, checkpoint = output.with_suffix(".txt"), output.with_suffix(".checkpoint.pt")
    paths.check_folder(output.parent, f"--output {output}")
    targets = [("--output", path) for path in (output, names, checkpoint)]
    paths.check_targets(targets, [Path(weights), annotations])
    paths.check_folder(images, f"--images {images}")
    height_width = parse_size(size)
    preparation = {
        "mean": mean,
        "std": std,
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "colour": colour,
    }
    fields = preparation_fields(**preparation)
    with needs("export"):
        import torch
        from safetensors.torch import save_file

        from camcore.adapters.evaluation.annotations import read_annotations
        from camcore.adapters.sources.build import build_model
        from camcore.adapters.training.head import with_classes
        from camcore.adapters.training.images import LabelledImages, parted
        from camcore.adapters.training.train import Settings
        from camcore.adapters.training.train import train as train_epochs
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here; leave it out")
    stated = read_annotations(annotations, images)
    classes = len(stated.categories)
    learnt, kept = parted(stated.images, held_out, seed)
    settings = Settings(epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed)
    with working(f"building {model}"):
        built = build_model(model, weights)
        torch.manual_seed(seed)  # of the last layer's weights
        with_classes(built.model, classes)
    spec = as_asked(built.image, height_width, fields)
    tell_assumptions(spec)
    out.print(
        f"{len(learnt)} images to learn from, {len(kept)} held out, {classes} classes",
        highlight=False,
    )
    with counting("training", epochs * (len(learnt) // batch or 1)) as advance:
        for epoch in train_epochs(
            built.model,
            LabelledImages(learnt, classes, spec, seed=seed),
            LabelledImages(kept, classes, spec),
            settings,
            checkpoint,
            device=device,
            workers=workers,
            advance=advance,
        ):
            told = f"epoch {epoch.number}: loss {epoch.loss:.4f}"
            if epoch.precision is not None:
                told += f", mean average precision of the classes held out {epoch.precision:.1%}"
            out.print(told, highlight=False)
    with writing(output):
        save_file(built.model.cpu().state_dict(), output)
    with writing(names):
        names.write_text("\n".join(stated.categories) + "\n", encoding="utf-8")
    checkpoint.unlink()
    out.print(f"[green]wrote[/green] {escape(str(output))}", soft_wrap=True)
    given = {"size": size, **preparation}
    prepared = "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
    out.print(
        f"explain it: camcore export {escape(model)} --weights {escape(str(output))} --class-names "
        f"{escape(str(names))}{escape(prepared)} --probabilities sigmoid",
        soft_wrap=True,
        highlight=False,
    )
