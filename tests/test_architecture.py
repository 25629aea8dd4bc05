"""The rules of docs/architecture.md, read from the source without importing it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from helpers import ROOT, imports, library_files, module_name, package_folders, pyproject, syntax

FILES = library_files()
PACKAGES = {module_name(folder / "__init__.py") for folder in package_folders()}
HEAVY = "torch numpy scipy warp taichi vtk pyvista matplotlib h5py rich cyclopts".split()
OPERATOR_PARTS = {"layers", "data", "train"}
"""What systems under operators/ share."""
DISTRIBUTIONS = {
    "warp": "warp-lang",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "PIL": "pillow",
    "vtk": "pyvista",
    "vtkmodules": "pyvista",
}
"""Import names that differ from what is installed; PyVista decides which VTK fits it."""


def ids(file):
    return str(file)


def import_rules() -> dict[str, set[str]]:
    """Folder -> folders it may import, from the table of docs/architecture.md."""
    rules: dict[str, set[str]] = {}
    for line in (ROOT / "docs/architecture.md").read_text("utf-8").splitlines():
        row = re.match(r"\| `([\w/]+)/` \|.*\| ([^|]+) \|$", line)
        if not row:
            continue
        folder, may = row[1].replace("/", "."), row[2]
        names = set(re.findall(r"`([\w.]+)`", may))
        if "all of the above" in may:
            names |= set(rules)
        elif not names:
            assert may.strip() in ("nothing", "third party only"), f"row of {folder}: {may!r}"
        rules[folder] = names
    return rules


RULES = import_rules()


def home(dotted: str) -> str | None:
    """The row of the table that a module below rheograd belongs to."""
    parts = dotted.split(".")[1:]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in RULES:
            return ".".join(parts[:end])
    return None


def test_the_table_names_every_package():
    assert {"sim.core", "operators", "tasks"} <= set(RULES)
    grouping = {folder.rpartition(".")[0] for folder in RULES} - {""}
    for package in PACKAGES - {"rheograd"}:
        assert home(package) or package.removeprefix("rheograd.") in grouping, package
    for folder, may in RULES.items():
        assert f"rheograd.{folder}" in PACKAGES, f"docs/architecture.md names {folder}/"
        assert may <= set(RULES), f"row of {folder} names {may - set(RULES)}"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_run_one_way(file):
    here = home(module_name(file))
    for name, line, _ in imports(file):
        assert name.split(".")[0] not in {p.split(".")[1] for p in PACKAGES if "." in p}, (
            f"{file}:{line}: `{name}` must be imported relatively"
        )
        if not name.startswith("rheograd.") or len(file.parts) == 1:
            continue
        there = home(name)
        if there is None or there == here:
            continue
        assert here is not None, f"{file}:{line} imports {name}: grouping folders import nothing"
        assert there in RULES[here], f"{file}:{line}: {here}/ must not import {there}/"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_inside_the_package_are_relative(file):
    for node in ast.walk(syntax(file)):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] != "rheograd", f"{file}:{node.lineno}: import it relatively"


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parts[0] == "operators" and len(f.parts) > 2], ids=ids
)
def test_operator_systems_do_not_import_one_another(file):
    system = file.parts[1]
    for name, line, _ in imports(file):
        parts = name.split(".")
        if parts[:2] != ["rheograd", "operators"] or len(parts) < 3:
            continue
        if f"rheograd.operators.{parts[2]}" in PACKAGES:
            assert parts[2] == system or parts[2] in OPERATOR_PARTS, f"{file}:{line}: {name}"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_third_party_imports_are_declared(file):
    project = pyproject()["project"]

    def names(requirements):
        return {re.match(r"[\w-]+", r)[0].lower() for r in requirements}

    core = names(project["dependencies"])
    extra = names(r for group in project["optional-dependencies"].values() for r in group)
    for name, line, runs in imports(file):
        top = name.split(".")[0]
        if top == "rheograd" or top in sys.stdlib_module_names:
            continue
        wanted = DISTRIBUTIONS.get(top, top).lower()
        assert wanted in core | extra, f"{file}:{line}: {wanted} is not declared in pyproject.toml"
        if runs:
            assert wanted in core, f"{file}:{line}: import {wanted}, an extra, where it is used"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_library_code_neither_hides_nan_nor_prints(file):
    for node in ast.walk(syntax(file)):
        name = getattr(node, "attr", getattr(node, "id", None))
        assert name != "nan_to_num", f"{file}:{node.lineno}: nan_to_num hides a wrong derivative"
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if called and node.func.id == "print":
            cli = file.parts[:2] == ("tasks", "cli")
            assert cli, f"{file}:{node.lineno}: log, do not print"


def test_files_are_short():
    others = [f for folder in ("tests", "benchmarks") for f in (ROOT / folder).rglob("*.py")]
    files = [*(ROOT / f for f in FILES), *others]
    lines = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in files}
    assert {f: n for f, n in lines.items() if n > 400} == {}


def test_packaging_lists_every_folder():
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed) and set(listed) == PACKAGES


def public(tree: ast.Module) -> set[str]:
    """Names of `__all__`, empty when the module has none or computes it."""
    names = set()
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AugAssign)):
            continue
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        if ast.unparse(target) == "__all__":
            items = getattr(node.value, "elts", [])
            names |= {item.value for item in items if isinstance(item, ast.Constant)}
    return names


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_public_names_have_docstrings(file):
    tree = syntax(file)
    if file.name != "__init__.py":
        assert ast.get_docstring(tree), f"{file} has no docstring"
    names = public(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            assert ast.get_docstring(node), f"{file}:{node.lineno}: {node.name} has no docstring"


def test_import_is_lazy_and_fast():
    code = (
        "import time; t = time.perf_counter(); import rheograd; t = time.perf_counter() - t\n"
        f"import sys; print(t, *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = run.stdout.split()
    assert loaded == [] and run.stderr == ""
    assert float(seconds) < 0.3


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] == "sim"], ids=ids)
def test_numerics_say_what_they_are(file):
    """A public function from tensors to tensors names its source or what it is differentiable in.

    Helpers without an `Args:` section, and modules that say it once for all, are exempt.
    """
    tree = syntax(file)
    names, words = public(tree), re.compile("Source:|[Dd]ifferentiable|[Dd]erivative")
    if words.search(ast.get_docstring(tree) or ""):
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name not in names or not node.returns:
            continue
        text = ast.get_docstring(node) or ""
        computes = "Tensor" in ast.unparse(node.args) and "Tensor" in ast.unparse(node.returns)
        if computes and "Args:" in text:
            assert words.search(text), f"{file}:{node.lineno}: {node.name}"
