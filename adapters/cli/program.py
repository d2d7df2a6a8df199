"""The `camcore` program: its commands, how their errors end it, and its entry point."""

import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from camcore.adapters.cli import export, inspect, layers, methods, run
from camcore.adapters.cli.console import err
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError

_INTERRUPTED = 130  # what shells give for a command that Ctrl-C ended


class _Commands(TyperGroup):
    """Turns camcore's own errors into one red line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CamcoreError as error:
            if ctx.params["debug"]:
                raise
            err.print(f"[red]camcore: {escape(str(error))}[/red]", soft_wrap=True)
            bad_input = isinstance(error, InputError | UnknownNameError | FileError)
            raise typer.Exit(2 if bad_input else 1) from error
        except KeyboardInterrupt:
            err.print("[red]camcore: stopped by Ctrl-C[/red]")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# As the help lists them.
app.command()(export.export)
app.command()(run.run)
app.command()(inspect.inspect)
app.command()(methods.methods)
app.command()(layers.layers)


def main() -> None:
    """The entry point of the `camcore` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app()


@app.callback()
def _camcore(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Turn a vision model into one file that explains itself, and run such files.

    Start with:

    - `camcore export resnet18 --output resnet18.onnx`

    - `camcore run resnet18.onnx dog.jpg --output overlay.png`

    Without a download: `scenes` in place of resnet18, a small classifier of painted shapes.

    Exit codes: 0 done, 1 the model could not be exported or proven, 2 something was wrong with what
    was given, 130 stopped by Ctrl-C.
    """
