"""Calls of the command line in this process, and what came of them."""

from pathlib import Path

from typer.testing import CliRunner, Result

from camcore.adapters.cli import app


def camcore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(result: Result, code: int = 2) -> str:
    """What was printed on standard error, in one line and without a traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("camcore: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())
