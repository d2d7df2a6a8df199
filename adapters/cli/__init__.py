"""The command line: `camcore export`, `run`, `inspect`, `methods`, `layers`; one file a command.

Each command imports what it needs when it runs: running a file never imports torch. `program` puts
them together.
"""

try:
    from camcore.adapters.cli.program import app, main
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("camcore"):
        raise
    raise SystemExit(
        f"the camcore command needs {error.name}: pip install 'camcore[run]', or 'camcore[gpu]' "
        "for CUDA"
    ) from error

__all__ = ["app", "main"]
