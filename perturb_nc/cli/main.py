"""The `perturb-nc` command: tables for people, --json for machines, errors in one line."""

import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from perturb_nc.cli.bench import bench
from perturb_nc.cli.closed_forms import deep_ufm, spectrum
from perturb_nc.cli.demo import demo
from perturb_nc.cli.explore import explore
from perturb_nc.cli.layers import metrics, predict
from perturb_nc.cli.measure import measure
from perturb_nc.cli.path import depth, flow
from perturb_nc.cli.report import report
from perturb_nc.cli.stats import stats
from perturb_nc.cli.streams import ending_like_ctrl_c, notes, speak_every_encoding
from perturb_nc.cli.sweep import plot, sweep
from perturb_nc.cli.threads import ALL, choose_threads
from perturb_nc.show.labels import printable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    demo, measure, stats, metrics, predict, report, explore, sweep, plot, flow, depth, bench,
    spectrum, deep_ufm,
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


_Threads = Annotated[
    int | None,
    typer.Option(help="threads of the command; default: 1, all for measure; sweep has --workers"),
]


@app.callback()
def _options(show_version: _Version = None, threads: _Threads = None) -> None:
    """Perturbation analysis of near neural collapse.

    A command computes on one thread, unless it is told `perturb-nc --threads 4 COMMAND`.
    """
    choose_threads(threads, next((word for word in sys.argv if word in ALL), None))


def main() -> None:
    """Entry point: exit code 2 and one line on stderr for whatever the user can mend."""
    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name drawn as boxes
    speak_every_encoding()
    with notes(), ending_like_ctrl_c() as signals:
        code = _run()
    if code:
        sys.exit(128 + signals[0] if signals else code)


def _run() -> int:
    """The exit code of the command."""
    try:
        return int(app(standalone_mode=False) or 0)  # of Ctrl-C, which typer does not raise again
    except TyperException as error:
        return _failed(error.format_message())
    except MemoryError as error:
        return _failed(str(error) or "there is not enough memory; use fewer or smaller features")
    except (ValueError, OSError) as error:
        return _failed(str(error) or type(error).__name__)
    except (FloatingPointError, OverflowError) as error:
        return _failed(f"the numbers leave the range of float64: rescale them ({error})")
    except RuntimeError as error:
        text, name = str(error), type(error).__name__
        if name == "OutOfMemoryError" or "t allocate memory" in text or "enough memory" in text:
            line = text.strip().splitlines()[0]
            return _failed(f"there is not enough memory; use fewer or smaller features ({line})")
        if not name.endswith("LinAlgError"):  # torch's, without importing torch
            raise
        return _failed(f"the features are badly scaled or offset: centre and rescale them ({text})")
    except KeyboardInterrupt:
        return 130


def _failed(message: str) -> int:
    if message:  # empty after the help page of a bare `perturb-nc`
        print("perturb-nc: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2
