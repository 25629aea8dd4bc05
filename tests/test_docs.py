"""Every example in README.md, docs/ and the docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import linecache
import re
import subprocess
import sys
import types

import pytest
from helpers import ROOT, library_files, module_name

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*) *(.*?)$")


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(first line, code) of each fenced block that begins with exactly ```python."""
    blocks, start, code, indent = [], None, [], ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if start is not None:
            if fence and not fence[2]:
                blocks.append((start, "\n".join(code) + "\n"))
                start = None
            else:
                code.append(line.removeprefix(indent))
        elif fence and fence[2]:
            wanted = fence[2] == "python" and not fence[3]
            start, code, indent = number + 1, [], fence[1]
            if not wanted:
                start = -1
    assert start is None, "a fence is never closed"
    return [(line, code) for line, code in blocks if line > 0]


def has_example(file) -> bool:
    return ">>>" in (ROOT / file).read_text("utf-8")


def test_blocks_are_found_with_their_lines():
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n```python no-run\ny\n```\n"
    text += "  ```python\n  z\n  ```\n"
    assert python_blocks(text) == [(3, "x = 1\n"), (12, "z\n")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page, tmp_path, monkeypatch):
    """One namespace a page, blocks in order, in an empty folder; ```python no-run is skipped.

    Each block is a file of its own, because Warp reads the source of kernels; its lines are padded
    so that a traceback names the line of the page.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYVISTA_OFF_SCREEN", "true")
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)  # dataclasses look their module up
    namespace = vars(module)
    for line, code in python_blocks(page.read_text("utf-8")):
        file = tmp_path / f"{page.stem}_line_{line}.py"
        file.write_text("\n" * (line - 1) + code, "utf-8")
        linecache.checkcache(str(file))
        exec(compile(file.read_text("utf-8"), str(file), "exec"), namespace)


@pytest.mark.parametrize("file", [f for f in library_files() if has_example(f)], ids=str)
def test_docstring_examples(file):
    module = importlib.import_module(module_name(file))
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    for example in finder.find(module, module.__name__):
        runner.run(example)
    assert runner.tries > 0, f"{file} shows examples outside docstrings"
    assert runner.failures == 0


def test_every_module_imports_silently():
    """In one process of its own: no output, no engine started, no window."""
    names = [module_name(f) for f in library_files() if f.name != "__main__.py"]
    code = (
        f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "import sys\n"
        "assert 'taichi' not in sys.modules\n"
        "warp = sys.modules.get('warp')\n"
        "assert warp is None or not warp._src.context.runtime, 'Warp was started by an import'"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout + run.stderr == ""


def test_links_in_the_pages_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
