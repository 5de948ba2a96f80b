"""The documentation keeps its promises: code runs, names are described, links and flags exist, nothing is left out."""

import ast
import importlib
import inspect
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from lift_core.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "results")  # tables inside other pages
TEXT = {".py", ".md", ".toml", ".yml", ".cff", ".txt", ".css", ".csv", ".json", ""}
GENERATED = {".git", ".venv", "site", "runs", "build", "dist", "__pycache__"}


def python_blocks(page: Path) -> str:
    """All Python blocks of a page in order, except those whose title says that they need the hub."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/index.md", "docs/extending.md", "docs/comparing.md", "docs/adapeft.md", "docs/api/index.md"],
)
def test_code_in_pages_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # pages write beside themselves
    script = tmp_path / "page.py"
    script.write_text(python_blocks(ROOT / name), encoding="utf-8")
    assert script.read_text(encoding="utf-8").strip(), f"{name} has no code"
    runpy.run_path(str(script))


@pytest.mark.parametrize("name", ["own_problem", "compare_backends", "gpt2_wikitext2"])
def test_examples_run_at_toy_size(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIFT_TOY", "1")
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    assert any(character.isdigit() for character in capsys.readouterr().out), f"{name} printed no figure"


def test_the_readme_shows_the_quickstart() -> None:
    quickstart = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert python_blocks(ROOT / "README.md") == quickstart
    assert len(quickstart.splitlines()) <= 15


def exported(package: str) -> dict[str, str]:
    """Where each name of a package's ``__all__`` is defined, read from its imports."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    origin = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {name: origin[name] for name in module.__all__}


PUBLIC = [
    (package, name, origin)
    for package in ("lift_core", "lift_core.testing", "lift_core.selection", "backends", "problems")
    for name, origin in exported(package).items()
]


@pytest.mark.parametrize(("package", "name", "origin"), PUBLIC, ids=[f"{p}.{n}" for p, n, _ in PUBLIC])
def test_public_names_are_described(package: str, name: str, origin: str) -> None:
    described: Any = getattr(importlib.import_module(package), name)
    if inspect.isclass(described) or inspect.isfunction(described):
        assert described.__doc__, f"{package}.{name} has no docstring"
        assert not described.__doc__.startswith(f"{name}("), f"{package}.{name}: the docstring is the dataclass default"
    targets = {target for page in PAGES for target in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)}
    assert targets & {origin, f"{origin}.{name}", f"{package}.{name}"}, f"{package}.{name} stands in no API page"


def test_the_api_index_names_everything() -> None:
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    missing = [name for package, name, _ in PUBLIC if package != "lift_core.testing" and f"`{name}`" not in text]
    assert not missing, f"docs/api/index.md does not name {missing}"


def test_navigation_has_every_page() -> None:
    def leaves(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]

    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(leaves(configuration["nav"])) == [page.relative_to(DOCS).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 60


def test_flags_in_the_documentation_exist() -> None:
    command: Any = typer.main.get_command(app)
    commands = [command, *command.commands.values()]
    known = {flag for one in commands for option in one.params for flag in (*option.opts, *option.secondary_opts)}
    for page in (ROOT / "README.md", *PAGES):
        for line in page.read_text(encoding="utf-8").splitlines():
            if "$ lift " in line or page.name == "cli.md":
                shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line)) - {"--help"}
                assert shown <= known, f"{page.name}: no such flag: {sorted(shown - known)}"


def test_the_plugin_page_shows_the_entry_points_of_the_example() -> None:
    block = re.search(r"^```toml\n(.*?)^```", (DOCS / "extending.md").read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    package = tomllib.loads((ROOT / "examples" / "plugin" / "pyproject.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(block[1])["project"]["entry-points"] == package["project"]["entry-points"]


def test_no_file_mentions_a_machine() -> None:
    folders = "|".join(("work", "home", "root", "Users"))
    machine = re.compile(rf"(?<![\w./~-])/(?:{folders})/\w|\.\./" + "shared")
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in GENERATED or part.endswith(("_cache", ".egg-info", ".hypothesis")) for part in parts)
        if path.is_file() and not hidden and path.suffix in TEXT:
            found = machine.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path.relative_to(ROOT)} mentions {found and found[0]!r}"
