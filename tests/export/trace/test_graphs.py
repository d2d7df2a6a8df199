"""What is asked of traced graphs everywhere."""

from camcore.export.trace.graphs import first_line


def test_first_line() -> None:
    assert first_line(ValueError("\n what happened\nwhy")) == "what happened"
    assert first_line(ValueError()) == "ValueError"
