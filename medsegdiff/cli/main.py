"""The `medsegdiff` command."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medsegdiff import __version__
from medsegdiff.cli.check import check
from medsegdiff.cli.compare import compare
from medsegdiff.cli.demo import demo
from medsegdiff.cli.label import label
from medsegdiff.cli.predict import predict
from medsegdiff.cli.report import report
from medsegdiff.cli.steps import steps
from medsegdiff.errors import USER_ERROR_EXIT_CODE, find_user_error, one_line


class UserErrorGroup(TyperGroup):
    """Commands whose user errors come out as one line and exit code 2; other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        leave_orderly_on_sigterm()
        try:
            return super().invoke(ctx)
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            typer.echo(f"error: {one_line(user_error)}", err=True)
            raise typer.Exit(USER_ERROR_EXIT_CODE) from error


def leave_orderly_on_sigterm() -> None:
    """Have SIGTERM, with which job schedulers end a process, leave as Ctrl-C does: child processes are ended too."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


app = typer.Typer(
    cls=UserErrorGroup,
    help="Segment medical images, 2-D and 3-D, with diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medsegdiff {__version__}")
        raise typer.Exit


@app.callback()
def medsegdiff(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Segment medical images, 2-D and 3-D, with diffusion models."""


app.command()(predict)
app.command()(steps)
app.command()(check)
app.command()(compare)
app.command()(report)
app.command()(demo)
app.command()(label)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
