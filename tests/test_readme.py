"""What the README names is there, and what is there is named."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from camcore.adapters.cli import app
from camcore.export.trace.targets import TARGETS
from camcore.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^camcore (\w+) ?(.*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("name", [*METHODS, *TARGETS])
def test_methods_and_targets_are_listed(name: str) -> None:
    assert f"`{name}`" in README.partition("## What can be explained")[2].partition("\n## ")[0]


def test_methods_that_are_listed_exist() -> None:
    section = README.partition("## What can be explained")[2].partition("- **Models**")[0]
    assert set(re.findall("`(.+?)`", section)) == set(METHODS)


def test_commands_exist_with_their_options() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name, _ in COMMANDS} == set(known)
    for name, arguments in COMMANDS:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", arguments)) <= options | {"--help"}


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z][a-z-]*)", README):
        if f"`make {target}`" in README or re.search(rf"^make {target}\b", README, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
