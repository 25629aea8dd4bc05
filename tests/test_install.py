"""What an installation holds, what it needs, and the public names it offers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import rheograd
from helpers import ROOT, pyproject

NOT_PACKAGED = ("tests", "docs", "benchmarks", ".ci", "runs", "Makefile")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> tuple[set[str], Path]:
    """Names in a wheel, and the copy it was built from: building writes beside the source."""
    folder = tmp_path_factory.mktemp("wheel")
    common = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")

    def ignore(path: str, names: list[str]) -> set[str]:
        made = {"build", "dist", "runs"} if path == str(ROOT) else set()
        return common(path, names) | made.intersection(names)

    shutil.copytree(ROOT, folder / "source", ignore=ignore, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(folder), str(folder / "source")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (built,) = folder.glob("rheograd-*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist()), folder / "source"


def test_wheel_holds_exactly_the_package(wheel):
    names, source = wheel
    folders = [p.replace(".", "/") for p in pyproject()["tool"]["setuptools"]["packages"]]
    wanted = {
        f"{folder}/{file.name}"
        for folder in folders
        for file in (source / folder.removeprefix("rheograd").lstrip("/")).glob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == wanted
    for name in names:
        assert name.split("/")[1] not in NOT_PACKAGED, name


def test_wheel_holds_the_assets(wheel):
    names, source = wheel
    kept = ("__pycache__", ".py", ".pyc", ".md")
    wanted = {
        f"rheograd/{file.relative_to(source).as_posix()}"
        for file in (source / "assets").rglob("*")
        if file.is_file() and not file.name.endswith(kept)
    }
    assert wanted <= names


def requirement_names(requirements) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", r)[0].lower() for r in requirements}


def test_every_direct_dependency_is_pinned():
    project = pyproject()["project"]
    wanted = requirement_names(project["dependencies"])
    extras = re.search(r"^EXTRAS \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    for extra in extras.split(","):
        wanted |= requirement_names(project["optional-dependencies"][extra])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in pinned)
    assert requirement_names(pinned) == wanted


def test_version_is_the_one_declared():
    assert rheograd.__version__ == pyproject()["project"]["version"] == version("rheograd")


@pytest.mark.parametrize("name", rheograd.__all__)
def test_public_name_resolves(name):
    assert getattr(rheograd, name) is not None
    assert name in dir(rheograd)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        rheograd.no_such_name  # noqa: B018


def test_make_names_a_python_that_is_too_old(tmp_path):
    """The message comes before anything is created."""
    old = tmp_path / "python"
    old.write_text(
        f'#!/bin/sh\nshift; exec "{sys.executable}" -c '
        '"import sys; sys.version_info = (3, 8, 18); exec(sys.argv[1])" "$1"\n'
    )
    old.chmod(0o755)
    venv = tmp_path / "venv"
    run = subprocess.run(
        ["make", "setup", f"PYTHON={old}", f"VENV={venv}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0 and not venv.exists()
    assert "expected Python >= 3.10; got 3.8" in run.stdout + run.stderr


def test_the_command_is_installed():
    (script,) = entry_points(group="console_scripts", name="rheograd")
    assert script.value == "rheograd.tasks.cli:main"
