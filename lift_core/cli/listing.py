"""``lift list``: the plug-ins that are installed, none of them imported."""

from __future__ import annotations

import ast
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.table import Table

from lift_core.cli.display import print_table
from lift_core.plugins import Kind, Plugin, install_command, list_plugins
from lift_core.records import write_atomically

EXAMPLE = "Example: lift list --json"
LISTING = "list.json"


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help=f"Folder that receives {LISTING}.")] = None,
) -> None:
    """List backends and problems by their entry points, and the packages that they need and that are missing."""
    rows = [describe(plugin) for kind in get_args(Kind) for plugin in list_plugins(kind)]
    text = json.dumps(rows, indent=2) + "\n"
    if out is not None:
        write_atomically(out / LISTING, text)
    if as_json:
        typer.echo(text, nl=False)
    else:
        print_table(_table(rows))


def describe(plugin: Plugin) -> dict[str, Any]:
    """A plug-in as JSON values; ``missing`` names the packages that its module imports and that are not installed."""
    module = plugin.value.partition(":")[0]
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "value": plugin.value,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "missing": missing_packages(module),
    }


def missing_packages(module: str) -> list[str]:
    """Top-level packages that a module's source names in imports and that cannot be found; nothing is imported."""
    source = _source(module)
    if source is None:
        return [module.partition(".")[0]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(name), level=0):
                names.add(name)
            case ast.Call(
                func=ast.Name(id="import_module" | "import_package" | "require_package"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
            case _:
                pass
    packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    return sorted(package for package in packages if find_spec(package) is None)


def _source(module: str) -> Path | None:
    """The file of a module, found without importing its parents."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None:
        return None
    if not parts:
        return Path(spec.origin) if spec.origin else None
    for location in spec.submodule_search_locations or ():
        stem = Path(location, *parts)
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for head in ("kind", "name", "class", "distribution", "usable"):
        table.add_column(head)
    for row in rows:
        missing = row["missing"]
        usable = f"no: {install_command(*missing)}" if missing else "yes"
        distribution = f"{row['distribution']} {row['version']}"
        table.add_row(row["kind"], row["name"], row["value"], distribution, usable, style="yellow" if missing else "")
    return table


def require_packages(name: str) -> None:
    """Refuse a backend whose packages are missing before anything is solved.

    Raises:
        ImportError: with the command that installs them.
    """
    values = [name] if ":" in name else [plugin.value for plugin in list_plugins("backends") if plugin.name == name]
    for value in values:
        missing = missing_packages(value.partition(":")[0])
        if missing and find_spec(value.partition(".")[0].partition(":")[0]) is not None:
            raise ImportError(f"{name}: it needs {', '.join(missing)}, not installed: {install_command(*missing)}")
