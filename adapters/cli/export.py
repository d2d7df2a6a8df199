"""`camcore export`: a model and its maps into one file."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths, tables
from camcore.adapters.cli.arguments import (
    ClassNames,
    Frames,
    Model,
    Size,
    Weights,
    example,
    example_photo,
    own_names,
    parse_size,
    read_names,
)
from camcore.adapters.cli.console import out, working
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
from camcore.adapters.files import check_suffix
from camcore.adapters.options import (
    add_channels,
    parse_detections,
    parse_options,
    parse_output,
    parse_target,
)
from camcore.methods import METHODS

# The panels of the help.
_METHOD, _TARGET, _MAPS, _FILE = "Method", "Target", "Maps", "File"


def _methods(incomplete: str) -> list[str]:
    """What a shell offers for a method that was begun."""
    return [name for name in METHODS if name.startswith(incomplete)]


def export(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .onnx, .pt or .pt2.",
            show_default="MODEL-METHOD.onnx",
            rich_help_panel=_FILE,
        ),
    ] = None,
    weights: Weights = "DEFAULT",
    size: Size = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    colour: Colour = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=_methods,
            help="`camcore methods` lists them.",
            rich_help_panel=_METHOD,
        ),
    ] = "gradcam",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="A module of the model; `camcore layers` lists them. Repeatable: the maps of "
            "several layers are combined.",
            show_default="the last one on the image's grid",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="An option of the method, as eps=0; `camcore methods` lists them. Repeatable.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many channels scorecam, sscam and iscam mask the image with, those that are "
            "strongest in it: a pass for each.",
            show_default="all of them",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    eigen_smooth: Annotated[
        bool,
        typer.Option(
            "--eigen-smooth",
            help="Less noise: the first principal component of the weighted activations in place "
            "of their sum.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    aug_smooth: Annotated[
        bool,
        typer.Option(
            "--aug-smooth",
            help="Less noise: the mean over six variants of the image, mirrored, brighter and "
            "darker, at six times the cost.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION",
            help="What is explained, class by class: logit; probability (softmax); rest and finer "
            "(against the other classes); binary (one score, yes or no); value (regression); "
            "segmentation (scores of pixels); similarity or dot (of embeddings with queries, which "
            "come when the file runs); or module:function, from the model's output to scores (B, "
            "N). Of a detector in place of the class: left, top, right, bottom, width or height of "
            "each box.",
            show_default="the method's own, mostly logit",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    explain_output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|INDEX",
            help="The output of the model to explain, where it has several.",
            show_default="the first",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    probabilities: Annotated[
        Literal["softmax", "sigmoid", "scores", "none"] | None,
        typer.Option(
            help="What makes probabilities of the scores, for whoever runs the file; `scores` "
            "where they are that already.",
            show_default="softmax, or what the target and the model's output say",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    combine: Annotated[
        Literal["mean", "product", "max"] | None,
        typer.Option(
            help="What the maps of several layers become.",
            show_default="the method's own, mostly mean",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    relu: Annotated[
        bool | None,
        typer.Option(
            "--relu/--no-relu",
            help="Whether what speaks against the class is cut off.",
            show_default="the method's own",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--no-normalize",
            help="Maps in [0, 1], or as the method gives them.",
            rich_help_panel=_MAPS,
        ),
    ] = True,
    map_size: Annotated[
        Literal["image", "feature"],
        typer.Option(help="Maps of the image's size, or the layer's.", rich_help_panel=_MAPS),
    ] = "image",
    dynamic_size: Annotated[
        bool | None,
        typer.Option(
            "--dynamic-size/--fixed-size",
            help="Whether the file takes images of any height and width.",
            show_default="any size where the model allows it",
            rich_help_panel=_FILE,
        ),
    ] = None,
    frames: Frames = None,
    stepwise: Annotated[
        bool,
        typer.Option(
            "--stepwise",
            help="The file takes many passes in steps, so that `camcore run` shows how far it is; "
            "for ablationcam, scorecam, rise and their like.",
            rich_help_panel=_FILE,
        ),
    ] = False,
    class_ids: Annotated[
        Literal["required", "optional", "best", "all"],
        typer.Option(
            help="How the file learns which classes to explain: by an input class_ids; by one that "
            "may be left out (.onnx, and onnxruntime alone honours it); or by itself, which takes "
            "the --top best ones, or all.",
            rich_help_panel=_FILE,
        ),
    ] = "required",
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --class-ids best: how many of the best classes the file explains; of a "
            "detector, how many detections.",
            show_default="1, of a detector 20",
            rich_help_panel=_FILE,
        ),
    ] = None,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels",
            help="The file takes uint8 images (B, H, W, 3) and normalises them itself.",
            rich_help_panel=_FILE,
        ),
    ] = False,
    detections: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION",
            help="What makes detections of the output of a model that returns all its candidates: "
            "yolo (YOLOv8, YOLO11), detr (DETR, YOLOS), rt-detr; or module:function, from output "
            "and image to boxes, labels and scores.",
            show_default="torchvision's detectors need none",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option(
            "--example",
            help="A photograph in which a detector finds something, to prove its file with.",
            show_default="noise",
            rich_help_panel=_FILE,
        ),
    ] = None,
    boxes: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            min=1,
            help="The file finds boxes as well: those of the M largest regions of each map above "
            "Otsu's threshold, with scores.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    concepts: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="The file parts what the layer sees in K concepts, whatever the class: a map of "
            "each, and where the classifier is linear what it adds to each class's score.",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    box_confidence: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        typer.Option(
            help="How likely a class is to be there, by which the mean of its map in a box is "
            "multiplied: softmax of the scores; sigmoid, for a model of several labels; or none.",
            show_default="softmax",
            rich_help_panel=_MAPS,
        ),
    ] = None,
) -> None:
    """Write a model and its maps into one file, and check that file against PyTorch.

    - `camcore export resnet50 --method layercam --layer layer3 --output resnet50.onnx`

    - `camcore export resnet50 --layer layer3 --layer layer4 --pixels -o resnet50.onnx`

    - `camcore export resnet50 --method scorecam --channels 16 -o resnet50.onnx`

    - `camcore export resnet18 --method ablationcam --layer layer3 --stepwise -o resnet18.onnx`

    - `camcore export fcn_resnet50 --target segmentation --layer backbone.layer4 -o fcn.onnx`

    - `camcore export resnet50 --boxes 5 -o resnet50.onnx`

    - `camcore export resnet50 --concepts 4 -o resnet50.onnx`

    - `camcore export fasterrcnn_resnet50_fpn --example street.jpg -o detector.onnx`

    - `camcore export retinanet_resnet50_fpn --target left --example street.jpg -o left.onnx`

    - `camcore export mymodels:yolo --detections yolo --example street.jpg -o yolo.onnx`

    - `camcore export resnet18 --weights mine.safetensors --class-names names.txt -o mine.onnx`

    - `camcore export mymodels:build_net --size 96x128 --fixed-size --output net.pt2`

    - `camcore export timm:convnext_tiny.fb_in1k --output convnext.onnx`

    - `camcore export hf:./my-folder --method legrad --output mine.onnx`

    - `camcore export hf:openai/clip-vit-base-patch32 --target similarity --output clip.onnx`

    - `camcore export model.onnx --layer layer4 --output explained.onnx`

    - `camcore export mymodels:build_net --mean 0.5 --std 0.5 --resize 224x224 --colour bgr`

    How images are prepared is taken from the model where it says so: torchvision's weights, timm's
    pretrained_cfg, transformers' config, or an image_spec of your own left at the model. What
    nobody states is assumed to be as it is for ImageNet, and told.

    The command line exports models of an image alone; the Python function camcore.export.explain
    takes any, and further inputs.
    """
    named = output is not None
    output = output or default_output(model, method)
    # What can be checked before torch is imported, and before minutes of work.
    check_suffix(output)
    paths.check_folder(output.parent, f"--output {output}")
    paths.check_targets(
        [("--output", output)],
        [Path(weights), Path(weights.rpartition(":")[0] or weights), Path(model)],
    )
    names = None if class_names is None else read_names(class_names)
    height_width = parse_size(size)
    fields = preparation_fields(
        mean=mean, std=std, resize=resize, crop=crop, interpolation=interpolation, colour=colour
    )
    own_options = add_channels(method, parse_options(method, options or ()), channels)
    with needs("export"):
        from camcore.adapters.sources.build import build_model
        from camcore.export import explain, is_detector, save

        chosen = {
            "target": parse_target(target),
            "output": parse_output(explain_output),
            "combine": combine,
            "relu": relu,
            "detections": parse_detections(detections),
            "boxes": boxes,
            "concepts": concepts,
            "box_confidence": box_confidence,
            "probabilities": probabilities,
        }
    with working(f"building {model}"):
        built = build_model(model, weights)
    if chosen["output"] is None:
        chosen["output"] = built.output
        chosen["probabilities"] = probabilities or built.probabilities
    spec = as_asked(built.image, height_width, fields)
    if chosen["detections"] is not None or is_detector(built.model):
        images, spec = example_photo(replace(built, image=spec), photo, height_width)
        names = names or built.class_names
    else:
        images = example(replace(built, image=spec), height_width, frames)
    if names is None:
        names = own_names(built, images, target=chosen["target"], output=chosen["output"])
    tell_assumptions(spec)
    with working(f"explaining {built.name} with {method}"):
        explained = explain(
            built.model,
            images,
            method=method,
            layer=[built.aliases.get(layer, layer) for layer in layers or ()] or None,
            eigen_smooth=eigen_smooth,
            aug_smooth=aug_smooth,
            stepwise=stepwise,
            normalize=normalize,
            full_size=map_size == "image",
            pixels=pixels,
            class_ids=class_ids,
            top=top,
            model_name=built.name,
            class_names=names,
            image_spec=spec,
            dynamic_size=dynamic_size,
            frames=frames is not None,
            # The others are left to the method.
            **{name: value for name, value in chosen.items() if value is not None},
            **own_options,
        )
    if built.notes:
        explained.card = replace(explained.card, notes=(*built.notes, *explained.card.notes))
    with working(f"writing and proving {output}"):
        card = save(explained, output, check=built.check)
    out.print(
        f"[green]wrote[/green] {escape(str(output))}: {card.method} of {card.model} at "
        f"{escape(card.layer)}{tables.target_suffix(card)}"
        + ("" if named else "; --output gives another name"),
        soft_wrap=True,
    )
    if card.class_names is None and card.queries is None:
        out.print(
            "nothing names the classes, which are told by their numbers: --class-names FILE does",
            soft_wrap=True,
        )
    for note in card.notes:
        out.print(escape(f"note: {note}"), soft_wrap=True)


def default_output(model: str, method: str) -> Path:
    """Where a model goes of which nobody said where.

    >>> default_output("mymodels:build_net", "gradcam++").name
    'build_net-gradcam++.onnx'
    >>> default_output("nets/mine.onnx", "gradcam").name
    'mine-gradcam.onnx'
    >>> default_output("hf:microsoft/resnet-50", "gradcam").name
    'resnet-50-gradcam.onnx'
    """
    path = Path(model.rpartition(":")[2])
    own = path.stem if model.lower().endswith(".onnx") else path.name
    name = re.sub(r"[^\w.+-]+", "_", own) or "model"
    return Path(f"{name}-{method}.onnx")
