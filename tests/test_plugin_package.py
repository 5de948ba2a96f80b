"""A package of its own, as a third party would write it: installed, found, checked and listed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPECS = ("lift_example.fourier_ridge:FourierRidge", "lift_example.scipy_linprog:SciPyLinprog")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the package installed; nothing is fetched and the source stays clean."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "site"
    shutil.copytree(ROOT / "examples" / "plugin", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=environment["PYTHONPATH"].split(os.pathsep)[0],
    )


def test_it_is_found_without_being_imported(environment: dict[str, str]) -> None:
    code = (
        "import sys; from lift_core.plugins import list_plugins; "
        "print([(p.name, p.distribution, p.version) for kind in ('problems', 'backends') for p in list_plugins(kind) "
        "if p.value.startswith('lift_example')], 'lift_example' in sys.modules)"
    )
    done = run(environment, "-c", code)
    assert done.returncode == 0, done.stderr
    offers = [("fourier_ridge", "lift-example-plugin", "0.1.0"), ("scipy_linprog", "lift-example-plugin", "0.1.0")]
    assert done.stdout.strip() == f"{offers} False"


def test_it_keeps_the_contracts(environment: dict[str, str]) -> None:
    code = (
        "from lift_core.plugins import load_backend, load_problem; "
        "from lift_core.testing import check_backend, check_problem; "
        "check_problem(load_problem('fourier_ridge', num_frequencies=3)); "
        "check_backend(load_backend('scipy_linprog', method='highs-ds')); print('passed')"
    )
    done = run(environment, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "passed"


def test_lift_list_shows_it(environment: dict[str, str]) -> None:
    done = run(environment, "-m", "lift_core.cli", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.dumps(json.loads(done.stdout))
    assert "fourier_ridge" in listed and "scipy_linprog" in listed and "lift-example-plugin" in listed


@pytest.mark.parametrize("spec", SPECS)
def test_lift_check_passes_it(environment: dict[str, str], spec: str) -> None:
    done = run(environment, "-m", "lift_core.cli", "check", spec)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lift_check_fails_what_keeps_no_contract(environment: dict[str, str]) -> None:
    done = run(environment, "-m", "lift_core.cli", "check", "pathlib:Path")
    assert done.returncode not in (0, None)
