"""What the README and the pages in docs/ name is there, and what is there is named."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

import camcore.export
from camcore.adapters.cli import app
from camcore.export.trace.targets import TARGETS
from camcore.methods import METHODS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the lines of each code block."""
    return FENCE.findall(text)


def python_blocks() -> list[object]:
    """Each Python block of any page, and which it is."""
    return [
        pytest.param(code, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (language, code) in enumerate(blocks(page.read_text()))
        if language == "python"
    ]


def shell_lines(page: Path) -> list[str]:
    lines = [code.splitlines() for language, code in blocks(page.read_text()) if not language]
    return [line for each in lines for line in each]


def section(page: str, title: str) -> str:
    text = (ROOT / page).read_text()
    assert f"\n## {title}\n" in text
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in a text, heads and rules left out."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) == {"-"}]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & {*rules}]


def missing_names(code: str) -> list[str]:
    """What a piece of Python wants of camcore that is not there."""
    wanted = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            wanted |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            wanted |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            wanted.add((node.value.id, node.attr))
    return [
        f"{module}.{name}".rstrip(".")
        for module, name in sorted(wanted)
        if module.partition(".")[0] == "camcore" and not is_there(module, name)
    ]


def is_there(module: str, name: str) -> bool:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    return not name or hasattr(found, name)


def test_methods_of_the_table_are_those_that_exist() -> None:
    table = rows(section("docs/METHODS.md", "Methods and their costs"))
    listed = [name for row in table for cell in row for name in re.findall("`(.+?)`", cell)]
    assert sorted(listed) == sorted(METHODS)


def test_targets_of_the_table_are_those_that_exist() -> None:
    listed = [row[0].strip("`") for row in rows(section("docs/METHODS.md", "Targets"))]
    assert sorted(listed) == sorted(TARGETS)


def test_rooms_of_the_export_are_told() -> None:
    rooms = Path(str(camcore.export.__file__)).parent.glob("*/__init__.py")
    road = section("docs/HOW.md", "The road")
    assert [room for room in rooms if f"`{room.parent.name}/`" not in road] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_python_or_commands(page: Path) -> None:
    """So that the tests below leave none of them out."""
    text = page.read_text()
    found = blocks(text)
    assert text.count("```") == 2 * len(found)
    assert {language for language, _ in found} <= {"python", ""}
    assert [line for line in shell_lines(page) if not re.match(r"(camcore|make) [a-z]", line)] == []


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in shell_lines(README) if line.startswith("camcore ")}
    assert shown == set(COMMANDS)


def test_every_command_shown_exists_with_its_options() -> None:
    for line in (line for page in PAGES for line in shell_lines(page)):
        if line.startswith("camcore "):
            name = line.split()[1]
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", line)) <= options(name), line


def test_commands_and_options_in_the_text_exist() -> None:
    known = set().union(*map(options, COMMANDS))
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for name, arguments in re.findall(r"`camcore ([a-z]+)([^`]*)`", text):
            assert set(re.findall(r"--[\w-]+", arguments)) <= options(name), (page.name, name)
        assert set(re.findall(r"`(--[\w-]+)", text)) <= known, page.name


def options(command: str) -> set[str]:
    return {
        option
        for parameter in COMMANDS[command].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_shows_the_two_commands_of_make() -> None:
    shown = [line.split()[1] for line in shell_lines(README) if line.startswith("make ")]
    assert shown == ["demo", "test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert links or page.name == "SUPPORT.md"
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_readme_links_every_page_and_pages_link_back() -> None:
    links = set(re.findall(r"\]\((docs/[^)#]+\.md)", README.read_text()))
    assert links == {f"docs/{page.name}" for page in PAGES if page != README}
    for page in PAGES:
        if page.name not in ("README.md", "SUPPORT.md"):
            assert "](../README.md)" in page.read_text(), page.name


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 125


def test_rows_beside_others_are_those_of_the_full_table() -> None:
    short = rows(section("README.md", "Beside others"))
    full = rows((ROOT / "docs/PEERS.md").read_text())
    assert short
    assert [row for row in short if row not in full] == []


def test_figures_of_speed_are_those_of_the_full_tables() -> None:
    """A row's figures stand in the row of docs/SPEED.md that is of the same model and layer."""
    short, full = section("README.md", "How fast"), (ROOT / "docs/SPEED.md").read_text()
    assert figures(short) <= figures(full)
    assert rows(short)
    for label, *cells in rows(short):
        row = max(
            (row for row in rows(full) if label.endswith(row[0])), key=lambda row: len(row[0])
        )
        assert figures(" ".join(cells)), label
        assert figures(" ".join(cells)) <= figures(" ".join(row)), label


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d[\d.]*x", text))


def test_there_is_python_to_check() -> None:
    assert len(python_blocks()) >= 5


@pytest.mark.parametrize("code", python_blocks())
def test_python_compiles_and_what_it_wants_of_camcore_exists(code: str) -> None:
    compile(code, "<block>", "exec")
    assert missing_names(code) == []


def test_missing_names_are_found() -> None:
    code = """
import camcore
import camcore.nowhere
from camcore.adapters import load, lode
from numpy import nothing

camcore.gradcam(camcore.gradcan)
"""
    assert missing_names(code) == ["camcore.gradcan", "camcore.adapters.lode", "camcore.nowhere"]


def messages() -> str:
    """Every text in the code, a line each, with `...` for what is filled in."""
    texts = []
    for folder in ("camcore", "export", "adapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", None) for part in node.values]
                    texts.append(
                        "".join(part if isinstance(part, str) else "..." for part in parts)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in texts)


def test_messages_that_are_explained_exist() -> None:
    known = messages()
    quoted = [row[0] for row in rows((ROOT / "docs" / "ERRORS.md").read_text())]
    assert len(quoted) > 20
    patterns = {q: ".*".join(map(re.escape, q.split("..."))) for q in quoted}
    assert [q for q, pattern in patterns.items() if not re.search(pattern, known)] == []
