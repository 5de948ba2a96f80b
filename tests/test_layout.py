"""The dependency rule of the architecture, enforced: who may import whom, and where heavy packages may appear."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lift_core", "backends", "problems")
FORBIDDEN = {"lift_core": {"backends", "problems"}, "backends": {"problems"}, "problems": {"backends"}}
ONLY_IN = {
    "highspy": ("backends/highs.py", "backends/mps.py"),
    "pyomo": ("backends/pyomo.py", "backends/pyomo_solver.py"),
    "ortools": ("backends/ortools.py", "backends/ortools_worker.py"),
    "cupdlpx": ("backends/cupdlpx.py",),
    "cuopt": ("backends/cuopt.py",),
    "hypothesis": ("lift_core/testing/",),
    "typer": ("lift_core/cli/",),
    "rich": ("lift_core/cli/",),
    "matplotlib": ("lift_core/report",),
    "transformers": ("problems/",),
    "datasets": ("problems/",),
    "sklearn": ("problems/",),
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Top-level package of every import of a file, and whether it is delayed (inside a function)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    delayed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], id(node) in delayed) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.module.split(".")[0], id(node) in delayed))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_dependency_rule(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    imported = {name for name, _ in imports(path)}
    assert not imported & FORBIDDEN[where.split("/")[0]], f"{where} imports against the dependency rule"
    for package, places in ONLY_IN.items():
        assert package not in imported or where.startswith(places), f"{where}: {package} belongs in {places}"


def test_core_mathematics_has_no_delayed_imports() -> None:
    boundary = ("lift_core/cli/", "lift_core/testing/", "lift_core/report", "lift_core/plugins.py")
    for path in (ROOT / "lift_core").rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith(boundary):
            assert not [name for name, is_delayed in imports(path) if is_delayed], f"{where} delays an import"


def test_the_rule_can_fail(tmp_path: Path) -> None:
    offender = tmp_path / "offender.py"
    offender.write_text("def f():\n    from backends import HiGHS\n")
    assert imports(offender) == [("backends", True)]
