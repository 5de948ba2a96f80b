"""The ``lift`` command.

>>> main(["--version"])
lift ...
0
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from lift_core.allocation import tune_allocator
from lift_core.cli import check, compare, listing, run, select, study

app = typer.Typer(name="lift", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command("run", epilog=run.EXAMPLE)(run.run)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.command("select", epilog=select.EXAMPLE)(select.select)
app.command("study", epilog=study.EXAMPLE)(study.study)
app.command("list", epilog=listing.EXAMPLE)(listing.list_command)
app.command("check", epilog=check.EXAMPLE)(check.check)

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""Every mistake in the arguments; Typer shipped its own copy of click's ClickException from one version on."""


@app.callback(invoke_without_command=True)
def lift(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """LiFT: fine-tune a model while its regularisation tunes itself, by linear programming."""
    context.obj = {"traceback": traceback}
    if version:
        from lift_core.report.document import lift_version

        typer.echo(f"lift {lift_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, or 1 (it failed), 2 (wrong arguments), 130 (interrupted).

    A mistake in the arguments, data or installation, and numbers that left their range, end as one line on the error
    stream; anything unexpected keeps its traceback.
    """
    tune_allocator()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks fails no finished run
    words = list(sys.argv[1:] if arguments is None else arguments)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that MODULE:NAME finds a module in the working directory
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name="lift", standalone_mode=False)
    except typer.Abort:
        return 130
    except _USAGE_ERROR as error:
        return _fail(error.format_message() + _got(error, words))  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, TypeError, ImportError, OSError) as error:
        if "--traceback" in words:
            raise
        return _fail(str(error))
    except ArithmeticError as error:
        if "--traceback" in words or isinstance(error, (ZeroDivisionError, OverflowError)):  # Python's own are bugs
            raise
        return _fail(str(error), code=1)
    except (MemoryError, RuntimeError) as error:
        if "--traceback" in words or not _lacks_memory(error):
            raise
        given = [f" {word}" for before, word in pairwise(["", *words]) if "--set" in (before, word.partition("=")[0])]
        sizes = f"the options of the problem decide its size:{''.join(given)}" if given else "choose a smaller problem"
        return _fail(f"out of memory ({(str(error).splitlines() or ['no more is known'])[0]}); {sizes}", code=1)
    return code if isinstance(code, int) else 0


def _lacks_memory(error: Exception) -> bool:
    """torch tells of memory of its own by a RuntimeError, on a GPU by one of a class of its own."""
    return isinstance(error, MemoryError) or bool(
        re.search("DefaultCPUAllocator|Storage size calculation overflowed|CUDA out of memory", str(error))
    )


def _got(error: Exception, words: Sequence[str]) -> str:
    """What stood behind the flag that an error is about: Typer's own messages only say what is wanted."""
    for flag in getattr(getattr(error, "param", None), "opts", ()):
        for index, word in enumerate(words):
            if word == flag and index + 1 < len(words):
                return f", got {words[index + 1]!r}"
            if word.startswith(f"{flag}="):
                return f", got {word.removeprefix(f'{flag}=')!r}"
    return ""


def _fail(message: str, *, code: int = 2) -> int:
    typer.echo("lift: " + " ".join(message.split()), err=True)
    return code
