"""`camcore methods`: the list of explanation methods."""

from camcore.adapters import tables
from camcore.adapters.cli.console import out


def methods() -> None:
    """List the explanation methods: what they compute, what they cost, where they come from."""
    from camcore.methods import METHODS

    out.print(tables.methods_list(METHODS.values()))
