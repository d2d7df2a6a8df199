"""Where commands print: standard output, and standard error for errors and what is going on."""

from rich.console import Console

out = Console()
err = Console(stderr=True)
