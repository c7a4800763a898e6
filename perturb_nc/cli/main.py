"""The `perturb-nc` command: tables for people, --json for machines, errors in one line."""

import sys
import warnings
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from perturb_nc.cli.closed_forms import deep_ufm, spectrum
from perturb_nc.cli.demo import demo
from perturb_nc.cli.explore import explore
from perturb_nc.cli.layers import metrics, predict, stats
from perturb_nc.cli.path import depth, flow
from perturb_nc.cli.report import report
from perturb_nc.cli.sweep import plot, sweep

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    demo, stats, metrics, predict, report, explore, sweep, plot, flow, depth, spectrum, deep_ufm,
):  # fmt: skip
    app.command()(_command)


def _version(wanted: bool | None) -> None:
    if wanted:
        print(f"perturb-nc {version('perturb-nc')}")
        raise typer.Exit


_Version = Annotated[
    bool | None,
    typer.Option("--version", help="print the version", callback=_version, is_eager=True),
]


@app.callback()
def _options(show_version: _Version = None) -> None:
    """Perturbation analysis of near neural collapse."""


def main() -> None:
    """Entry point: exit code 2 and one line on stderr for whatever the user can mend."""
    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name drawn as boxes
    try:
        if code := app(standalone_mode=False):  # of Ctrl-C, which typer does not raise again
            sys.exit(code)
    except TyperException as error:
        _fail(error.format_message())
    except (ValueError, OSError, MemoryError) as error:
        _fail(str(error) or type(error).__name__)
    except (FloatingPointError, OverflowError) as error:
        _fail(f"the numbers leave the range of float64: rescale them ({error})")
    except RuntimeError as error:
        if not type(error).__name__.endswith("LinAlgError"):  # torch's, without importing torch
            raise
        _fail(f"the features are badly scaled or offset: centre and rescale them ({error})")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    if message:  # empty after the help page of a bare `perturb-nc`
        print("perturb-nc: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
