"""`camcore layers`: the layers of a model that can be explained."""

from typing import Annotated

import typer

from camcore.adapters import tables
from camcore.adapters.cli.arguments import Frames, Model, Size, Weights, example, parse_size
from camcore.adapters.cli.console import out, working
from camcore.adapters.extras import needs


def layers(
    model: Model,
    weights: Weights = "none",
    size: Size = None,
    frames: Frames = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List those that cannot be explained as well.")
    ] = False,
) -> None:
    """List the layers of a model that can be explained, and tell which is the default and why.

    - `camcore layers resnet18`

    - `camcore layers vit_b_16 --all`

    - `camcore layers mymodels:build_net --size 96x128`
    """
    with needs("export"):
        from camcore.adapters.sources.build import build_model
        from camcore.adapters.sources.scenes import takes
        from camcore.export import list_layers
    height_width = parse_size(size)
    with working(f"building {model}"):
        built = build_model(model, "DEFAULT" if takes(model) else weights)
    with working(f"tracing {built.name}"):
        images = example(built, height_width, frames)
        of_frames = {} if frames is None else {"frames": True}
        found = list_layers(built.model, images, **of_frames)
    out.print(tables.layers_table(built.name, found, everything=everything, width=out.width))
