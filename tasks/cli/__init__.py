"""The `rheograd` command.

    rheograd demo | list | simulate | generate | train | evaluate | identify | optimize | bench | export |
             replay | render | view | info

Commands load when they are called: `rheograd --help` imports neither torch nor an engine. Errors
that a user can cure are one line on the standard error stream; `--debug` anywhere shows where they
arose. Exit codes: 0 done, 1 a computation or the disk failed, 2 the request was wrong, 130
interrupted.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ... import __version__

__all__ = ["make_app", "main"]

_COMMANDS = {
    "demo": ("demo:demo", "Simulate, learn, plan and look, in five minutes."),
    "list": ("info:list_", "Scenes, materials, laws, tasks and engines there are."),
    "simulate": ("simulate:simulate", "Run a scene and store its motion."),
    "generate": ("generate:generate", "Simulate a data set of many motions to learn from."),
    "train": ("train:app", "Train a law on a motion, or a stepper or operator on a data set."),
    "evaluate": ("evaluate:evaluate", "Measure what was trained on what it has not seen."),
    "identify": ("identify:identify", "Find stiffness and friction of a gel sensor from its data."),
    "optimize": ("optimize:optimize", "Find the actions that solve a task."),
    "bench": ("bench:app", "Compare optimizers on tasks at equal cost: one table, one picture."),
    "export": ("export:export", "Write the tools' motion of a run as a table, for a robot."),
    "replay": ("export:replay", "Run a task with its tools on a motion from a file."),
    "render": ("view:render", "Pictures and movies of a stored motion."),
    "view": ("view:view", "Look at a stored motion in a window."),
    "info": ("info:info", "Versions, devices and caches; or what a run holds."),
}
_DOTTED = re.compile(r"--(bodies|tools|task|optimizer|model|train)\.[\w.-]+$")


def make_app(command: str = "") -> Any:
    """The cyclopts application; commands are import paths until they are called.

    Args:
        command: The one that is going to be called, which shows its own, longer help.
    """
    from cyclopts import App

    app = App(
        name="rheograd",
        help="Differentiable physics and PDE learning: simulate, learn, plan and look.",
        version=__version__,
        result_action="return_value",
        help_format="plaintext",
    )
    for name, (target, text) in _COMMANDS.items():
        if importlib.util.find_spec(f".{target.split(':')[0]}", __package__):
            options = {} if name == command else {"help": text}
            app.command(f"{__package__}.{target}", name=name, **options)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; exits the process."""
    _hear_every_interrupt()
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def _hear_every_interrupt() -> None:
    """SIGTERM stops like Ctrl-C, since batch systems end jobs with it; and no stop is lost.

    Python drops an exception that is raised inside a weak reference's callback or a `__del__`. A stop
    that falls there is sent again a moment later.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not hasattr(signal, "pthread_kill"):  # Windows
        return
    report, main_thread = sys.unraisablehook, threading.main_thread().ident

    def again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            return report(unraisable)
        while True:  # a stop that comes while this still runs would be dropped, too
            try:
                stop = (main_thread, signal.SIGINT)
                return threading.Timer(0.1, signal.pthread_kill, stop).start()
            except KeyboardInterrupt:
                continue

    sys.unraisablehook = again


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from .common import Dotted

    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    Dotted.values, arguments = _dotted(arguments)
    try:
        make_app(next(iter(arguments), ""))(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `rheograd list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _report(error)


def _dotted(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options of nested configurations, `--bodies.jelly.size 0.2 0.3`, apart from the others."""
    found: dict[str, list[str]] = {}
    rest: list[str] = []
    target = rest
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if _DOTTED.match(key):
            target = found.setdefault(key[2:], [])
            target.clear()
            if equals:
                target.append(value)
                target = rest
            continue
        if argument.startswith("-") and not re.match(r"-[\d.]", argument):
            target = rest
        target.append(argument)
    return found, rest


def _report(error: BaseException) -> int:
    """One line about an error, and the exit code it stands for."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if "Interrupted" in names:
        return _line(str(error), 130)
    if isinstance(error, KeyboardInterrupt):
        return _line("Interrupted; nothing that was written is lost.", 130)
    if "CycloptsError" in names:
        return _line(f"{_flat(error)} See `rheograd --help`.", 2)
    if names & {"UsageError", "InputError", "FileNotFoundError", "FileExistsError"}:
        return _line(_flat(error), 2)
    if names & {"RheogradError", "ImportError", "OSError", "ValueError", "RuntimeError"}:
        return _line(_flat(error), 1)
    return _line(
        f"{type(error).__name__}: {_flat(error)} This is a defect: run again with --debug and "
        "report what it shows.",
        1,
    )


def _flat(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])
    return text or type(error).__name__


def _line(text: str, code: int) -> int:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True, highlight=False).print(
        Text(text, style="yellow" if code == 130 else "bold red")
    )
    return code
