"""The `camcore` program: its commands, how their errors end it, and its entry point."""

import sys
from io import TextIOWrapper
from traceback import format_exception
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from camcore.adapters.cli import (
    compare,
    convert,
    evaluate,
    export,
    inspect,
    kernels,
    layers,
    methods,
    report,
    run,
    serve,
    train,
)
from camcore.adapters.cli.console import err, out
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError

_INTERRUPTED = 130  # what shells give for a command that Ctrl-C ended


class _Commands(TyperGroup):
    """Turns camcore's own errors into one red line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Wherever it stands: who adds it to a command that failed does so at the end.
        own = args[: args.index("--")] if "--" in args else args
        if "--debug" in own:
            args = ["--debug", *(each for each in own if each != "--debug"), *args[len(own) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CamcoreError as error:
            if ctx.params["debug"]:
                err.print("".join(format_exception(error)), markup=False, highlight=False)
            err.print(f"[red]camcore: {escape(str(error))}[/red]", soft_wrap=True)
            bad_input = isinstance(error, InputError | UnknownNameError | FileError)
            raise typer.Exit(2 if bad_input else 1) from error
        except KeyboardInterrupt:
            err.print("[red]camcore: stopped by Ctrl-C[/red]")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# As the help lists them.
app.command()(export.export)
app.command()(run.run)
app.command()(report.report)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(convert.convert)
app.command()(serve.serve)
app.command()(train.train)
app.command()(inspect.inspect)
app.command()(methods.methods)
app.command()(layers.layers)
app.command()(kernels.kernels)


def main() -> None:
    """The entry point of the `camcore` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(asked: bool) -> None:
    if asked:
        import camcore

        out.print(f"camcore {camcore.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _camcore(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show where an error came from; goes behind any command, too."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Turn a vision model into one file that explains itself, and run such files.

    Start with:

    - `camcore export resnet18 --output resnet18.onnx`

    - `camcore run resnet18.onnx dog.jpg --output overlay.png`

    Without a download: `scenes` in place of resnet18, a small classifier of painted shapes.

    Exit codes: 0 done, 1 the model could not be exported or proven, 2 something was wrong with what
    was given, 3 some of the images could not be read or run, 130 stopped by Ctrl-C.
    """
