"""The command `leafreport`: its arguments and options. What each command does is in `_commands`."""

import argparse
import os
import sys
from collections.abc import Sequence

TYPE_CHECKING = False  # a type checker takes it for true; typing itself is a fifth of `leafreport --help`
if TYPE_CHECKING:
    from typing import NoReturn

_FORMATS = ("text", "tree", "json", "csv", "markdown", "html")
_LONG_MESSAGE = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    0 done (for `diff` same, for `align` aligned and equal); 1 `diff` or `align` found something; 2 trouble,
    said in one line on standard error.
    """
    if sys.stderr is None:  # closed; print(file=None) would write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # pathlib takes a while to import
    arguments = _parser().parse_args(argv)
    if "jax" not in sys.modules and "platform" in arguments:
        # Looking at a model never takes an accelerator from a running job.
        os.environ["JAX_PLATFORMS"] = arguments.platform
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        print("leafreport: error: standard output is closed", file=sys.stderr)
        return 2
    _show_warnings_in_one_line()
    try:
        from leafreport import _commands

        code: int = 0
        with _commands.reader_may_leave():
            code = getattr(_commands, arguments.command)(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # the command never shows a traceback
        print(f"leafreport: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return code


def _show_warnings_in_one_line() -> None:
    """Leafreport's own warnings as diagnostics of a command; others as Python shows them."""
    import warnings

    others = warnings.showwarning

    def show(message: "Warning | str", category: type[Warning], *rest: object, **options: object) -> None:
        if category.__module__ == "leafreport._errors":
            print(f"leafreport: warning: {_safe(str(message))}", file=sys.stderr)
        else:
            others(message, category, *rest, **options)  # type: ignore[arg-type]

    warnings.showwarning = show


def _one_line(error: Exception) -> str:
    from leafreport._errors import LeafReportError

    text = str(error)
    return _safe(text if isinstance(error, LeafReportError) else f"{type(error).__name__}: {text}")


def _safe(message: str) -> str:
    """A message on one line of any terminal, its middle cut out where it is very long."""
    from leafreport._leaf import escape

    text = " ".join(message.splitlines())
    if len(text) > _LONG_MESSAGE:
        text = f"{text[: _LONG_MESSAGE // 2]} ... {text[-_LONG_MESSAGE // 2 :]}"
    return "\\".join(escape(part) for part in text.split("\\"))  # escaped already where they quote names


# --- Arguments ----------------------------------------------------------------------------------------------


_TARGET_HELP = (
    "A TARGET is a saved report (FILE.json, or - for standard input), a checkpoint on disk (a folder that "
    "Orbax saved, or ROOT@STEP; a .safetensors, .npz or msgpack file) or pkg.module:name, a tree, a model or "
    "a factory, which is traced without making an array."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> "NoReturn":
        self.exit(2, f"leafreport: error: {_safe(message)}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="leafreport",
        description="What is in a JAX pytree: leaves, paths, shapes, dtypes, bytes; and do two trees agree.",
        epilog=_TARGET_HELP,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    stack = commands.add_parser(
        "stack",
        help="build a stack of Dense layers, show it and count its leaves",
        description="Builds Dense(D) repeated, without making an array, shows its parameters and prints how "
        "many leaves they are as f32[1]: [8.] for 4 layers, a kernel and a bias each.",
    )
    stack.add_argument("--layers", type=float, default=4, metavar="N", help="how many layers (default 4)")
    stack.add_argument("--features", type=int, default=8, metavar="D", help="their width (default 8)")
    stack.add_argument(
        "--batch", type=int, default=4, metavar="N", help="rows of the sample input (default 4)"
    )
    stack.add_argument(
        "--seed", type=float, default=0, metavar="N", help="for jax.random.PRNGKey (default 0)"
    )
    stack.add_argument(
        "--backend",
        default="flax",
        metavar="NAME",
        help="the framework to build with (default flax), or all: every one installed, side by side",
    )
    _add_view(stack, default="tree, or text for all backends")

    show = commands.add_parser(
        "show",
        help="show what is in a target",
        description="Shows what is in a target; of a root of checkpoints, its steps and items.",
        epilog=_TARGET_HELP,
    )
    show.add_argument("target", metavar="TARGET", help="a saved report, a checkpoint, or pkg.module:name")
    _add_model(show)
    _add_view(show, default="text")

    compare = commands.add_parser(
        "diff",
        help="compare two targets: exit 0 same, 1 different, 2 trouble",
        description="Compares two targets. Each line is a difference: - only on the left, + only on the "
        "right, ~ changed, > moved, = what a save changes by itself, which does not count. Exit: 0 same, "
        "1 different, 2 trouble.",
        epilog=_TARGET_HELP,
    )
    compare.add_argument("left", metavar="LEFT", help="a target")
    compare.add_argument("right", metavar="RIGHT", help="a target")
    _add_model(compare)
    compare.add_argument("--format", choices=("text", "json"), default="text", help="(default text)")
    compare.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    compare.add_argument("--max-rows", type=_count, metavar="N", help="show N differences at most")
    compare.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code tells")
    _add_selection(compare)
    _add_common(compare)

    _add_align(commands)

    listing = commands.add_parser("adapters", help="list the backends installed")
    listing.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add_align(commands: "argparse._SubParsersAction[_Parser]") -> None:
    pairing = commands.add_parser(
        "align",
        help="which leaf of one model is which of another: exit 0 aligned and equal, 1 not, 2 trouble",
        description="Finds which leaf of LEFT is which of RIGHT from what each does in the traced programs, "
        "and what the two do differently though no leaf holds it. Each line: = paired, ? ambiguous, - only "
        "on the left, + only on the right, . unused, ~ different. Without --input, or of trees and reports, "
        "names, shapes and layers alone tell. Exit: 0 aligned and equal, 1 not, 2 trouble.",
        epilog=_TARGET_HELP,
    )
    pairing.add_argument("left", metavar="LEFT", help="a target; a model, or a factory of one, to be traced")
    pairing.add_argument("right", metavar="RIGHT", help="a target")
    pairing.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SHAPE[:DTYPE]",
        help="what both calls take, such as 4,8 or 4,16:int32; once for each input",
    )
    pairing.add_argument(
        "--input-right",
        action="append",
        default=[],
        metavar="SHAPE[:DTYPE]",
        help="what the right call takes, where that is laid out otherwise",
    )
    pairing.add_argument(
        "--mapping", metavar="FILE", help="pairs to take where nothing else tells: what --json gave, edited"
    )
    pairing.add_argument(
        "--verify",
        action="store_true",
        help="run both, the left values carried over (drawn where there are none), and say where they part",
    )
    pairing.add_argument(
        "--convert",
        metavar="OUT",
        help="write the left values as the right model's leaves: OUT.npz or OUT.safetensors",
    )
    pairing.add_argument(
        "--choose", choices=("listed",), help="take ambiguous pairs as they are listed, to verify or convert"
    )
    pairing.add_argument("--format", choices=("tree", "text", "json"), help="(default tree)")
    pairing.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    pairing.add_argument("--depth", type=_count, metavar="N", help="leave out what is deeper than N steps")
    pairing.add_argument(
        "--max-rows", type=_count, metavar="N", help="show N rows at most; the counts have all"
    )
    pairing.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show repeated blocks once (default: only on a terminal)",
    )
    pairing.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code tells")
    _add_common(pairing)


def _add_view(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--format", choices=_FORMATS, help=f"(default {default})")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    parser.add_argument("--depth", type=_count, metavar="N", help="sum up what is deeper than N steps")
    parser.add_argument(
        "--sort",
        choices=("path", "bytes", "params"),
        default="path",
        help="by path in natural order (default), or the largest first",
    )
    parser.add_argument("--max-rows", type=_count, metavar="N", help="show N rows at most; totals have all")
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show repeated siblings once (default: only on a terminal)",
    )
    _add_selection(parser)
    _add_common(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SHAPE[:DTYPE]",
        help="what a framework's model is traced on, such as 4,8 or 4,16:int32; once for each input",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="whose adapter tells roles and layers (default: found by the class of the target)",
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="only leaves whose name this takes (*, ?, [set], ** crosses steps; re:REGEX); repeatable",
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="no such leaves")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colours in the tree and the diff (default auto: on a terminal, unless FORCE_COLOR or NO_COLOR "
        "says otherwise)",
    )
    parser.add_argument("--platform", default="cpu", metavar="NAME", help="what JAX may run on (default cpu)")


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # Python refuses to read thousands of digits
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up (18 digits at most)")
    return int(text)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        import leafreport

        print(f"leafreport {leafreport.__version__}")
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
