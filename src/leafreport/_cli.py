"""The command `leafreport`: arguments, output streams, exit codes. JAX is imported only by what needs it."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TYPE_CHECKING = False  # a type checker takes it for true; typing itself is a fifth of `leafreport --help`
if TYPE_CHECKING:
    from typing import NoReturn

    from leafreport._report import LeafReport

_FORMATS = ("text", "tree", "json", "csv", "markdown", "html")
_SLOW_SECONDS = 1.0
_LONG_MESSAGE = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    0 done (for `diff`: same); 1 `diff` found differences; 2 trouble, said in one line on standard error.
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
        code: int = 0
        with _reader_may_leave():
            code = arguments.run(arguments)
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


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Lets a pipe's reader go before the end, as `head` does, without a word."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    "A TARGET is a saved report (FILE.json, or - for standard input) or pkg.module:name: a tree, a model, or "
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
    stack.set_defaults(run=_stack)
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
        description="Shows what is in a target.",
        epilog=_TARGET_HELP,
    )
    show.set_defaults(run=_show)
    show.add_argument("target", metavar="TARGET", help="a saved report, or pkg.module:name")
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
    compare.set_defaults(run=_diff)
    compare.add_argument("left", metavar="LEFT", help="a target")
    compare.add_argument("right", metavar="RIGHT", help="a target")
    _add_model(compare)
    compare.add_argument("--format", choices=("text", "json"), default="text", help="(default text)")
    compare.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    compare.add_argument("--max-rows", type=_count, metavar="N", help="show N differences at most")
    compare.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code tells")
    _add_selection(compare)
    _add_common(compare)

    listing = commands.add_parser("adapters", help="list the backends installed")
    listing.set_defaults(run=_adapters)
    listing.add_argument("--json", action="store_true", help="as JSON")
    return parser


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


# --- Commands -----------------------------------------------------------------------------------------------


def _stack(arguments: argparse.Namespace) -> int:
    everywhere = arguments.backend == "all"
    arguments.format = arguments.format or ("text" if everywhere else "tree")
    _refuse_unused(arguments)
    import jax

    from leafreport._errors import StackError
    from leafreport._flatten import report
    from leafreport._stack import count_array, stack

    for option in ("features", "batch"):
        if (value := getattr(arguments, option)) < (1 if option == "features" else 0):
            raise StackError(f"--{option} is {value}: the sample input has shape (batch, features).")
    sample = jax.ShapeDtypeStruct((arguments.batch, arguments.features), "float32")
    if everywhere:
        return _stacks(arguments, sample)
    with _progress("building the stack"):
        model = stack(arguments.seed, sample, arguments.layers, backend=arguments.backend, abstract=True)
        built = report(model)
    _print_view(built, arguments)
    if arguments.format in ("text", "tree"):
        print(count_array(built))
    return 0


def _stacks(arguments: argparse.Namespace, sample: object) -> int:
    """The stack as every backend that is installed builds it."""
    from leafreport._comparison import compare_stacks
    from leafreport._errors import FrameworkMissingError, LeafReportError

    for option in ("depth", "include", "exclude"):
        if getattr(arguments, option):
            raise LeafReportError(f"--{option} does nothing with --backend all: leave it out.")
    if arguments.sort != "path" or arguments.format in ("tree", "html"):
        option = "--sort" if arguments.sort != "path" else f"--format {arguments.format}"
        raise LeafReportError(f"{option} does not go with --backend all, which lists layers in their order.")
    with _progress("building the stacks"):
        found = compare_stacks(arguments.seed, sample, arguments.layers)
    if not found.built:
        raise FrameworkMissingError(
            "no backend can build the stack. " + "; ".join(f"{c.backend}: {c.trouble}" for c in found.columns)
        )
    fold = sys.stdout.isatty() if arguments.fold is None else arguments.fold
    match arguments.format:
        case "json":
            text = found.to_json()
        case "csv":
            text = found.to_csv()
        case "markdown":
            text = found.to_markdown(fold=fold, max_rows=arguments.max_rows)
        case _:
            text = found.to_text(fold=fold, max_rows=arguments.max_rows)
    sys.stdout.write(text)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    arguments.format = arguments.format or "text"
    _refuse_unused(arguments)
    from leafreport._target import load

    with _progress(f"reading {arguments.target}"):
        found = load(arguments.target, inputs=arguments.input, backend=arguments.backend, strict=True)
    _print_view(found, arguments)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    _refuse_unused(arguments)
    from leafreport._diff import diff
    from leafreport._errors import TargetError
    from leafreport._target import load

    if arguments.left == arguments.right == "-":
        raise TargetError("both sides are -: standard input can be read once. Save one side to a file.")
    with _progress(f"comparing {arguments.left} with {arguments.right}"):
        model = {"inputs": arguments.input, "backend": arguments.backend}
        left = _selected(load(arguments.left, **model), arguments)
        right = _selected(load(arguments.right, **model), arguments)
        found = diff(left, right)
    with _reader_may_leave():  # the exit code tells all the same
        if arguments.quiet:
            pass
        elif arguments.format == "json":
            sys.stdout.write(found.to_json())
        else:
            colors = {"-": "31", "+": "32", "~": "33", ">": "36", "=": "2"} if _color(arguments) else {}
            for line in found.to_text(max_rows=arguments.max_rows).splitlines():
                style = colors.get(line[:1]) if line[1:2] == " " else None
                print(f"\x1b[{style}m{line}\x1b[0m" if style else line)
        sys.stdout.flush()
    return 1 if found else 0


def _adapters(arguments: argparse.Namespace) -> int:
    from leafreport._discovery import adapters

    records = adapters()
    if arguments.json:
        import json

        fields = ("name", "distribution", "version", "framework", "framework_version", "installed", "state")
        print(json.dumps([{f: getattr(record, f) for f in fields} for record in records], indent=1))
        return 0
    from leafreport._leaf import escape
    from leafreport._render._table import Column, Table, table_text

    columns = {
        "backend": [record.name for record in records],
        "adapter from": [f"{record.distribution} {record.version}" for record in records],
        "framework": [
            f"{record.framework or 'not stated'} {record.framework_version or ''}".rstrip()
            for record in records
        ],
        "state": [record.state for record in records],
    }
    table = Table(tuple(Column(title, list(map(escape, cells))) for title, cells in columns.items()))
    sys.stdout.write(table_text(table))
    return 0


# --- Output -------------------------------------------------------------------------------------------------


def _selected(found: "LeafReport", arguments: argparse.Namespace) -> "LeafReport":
    if not (arguments.include or arguments.exclude):
        return found
    chosen = found.select(*arguments.include, exclude=arguments.exclude)
    if not len(chosen) and len(found):
        print("leafreport: the patterns take no leaf", file=sys.stderr)
    return chosen


def _print_view(found: "LeafReport", arguments: argparse.Namespace) -> None:
    shown = _selected(found, arguments)
    depth, rows, sort = arguments.depth, arguments.max_rows, arguments.sort
    terminal = sys.stdout.isatty()
    fold = terminal if arguments.fold is None else arguments.fold
    with _progress("drawing"):
        match arguments.format:
            case "json":
                text = shown.to_json()
            case "csv":
                text = shown.to_csv(depth=depth, sort=sort, max_rows=rows)
            case "html":
                text = shown.to_html(fold=fold or arguments.fold is None, depth=depth)
            case "markdown":
                text = shown.to_markdown(fold=fold, depth=depth, sort=sort, max_rows=rows)
            case "tree":
                text = shown.to_tree(fold=fold, depth=depth, max_rows=rows, color=_color(arguments))
            case _:
                text = shown.to_text(fold=fold, depth=depth, sort=sort, max_rows=rows)
    sys.stdout.write(text)
    if len(shown) != len(found) and arguments.format in ("text", "tree", "markdown"):
        left_out = len(found) - len(shown)
        print(f"not selected  {left_out:,} of {len(found):,} leaves; all of them: {found.summary()}")


def _refuse_unused(arguments: argparse.Namespace) -> None:
    """An option that would do nothing is a mistake to hear of."""
    from leafreport._errors import LeafReportError

    unused = {
        "json": ("depth", "sort", "max_rows", "fold"),
        "csv": ("fold",),
        "html": ("sort", "max_rows"),
        "tree": ("sort",),
    }
    given = {
        option: value
        for option in ("depth", "sort", "max_rows", "fold")
        if (value := getattr(arguments, option, None)) is not None and value != "path"
    }
    for option in unused.get(arguments.format, ()):
        if option in given:
            name = option.replace("_", "-")
            raise LeafReportError(f"--{name} does nothing with --format {arguments.format}: leave it out.")
    if arguments.format in ("text", "markdown") and "depth" in given and "fold" in given:
        raise LeafReportError(
            "--fold does nothing with --depth in a table, which sums up each group: leave it out."
        )


def _color(arguments: argparse.Namespace) -> bool:
    """The explicit flag, then FORCE_COLOR, then NO_COLOR, then whether a terminal reads."""
    if arguments.color != "auto":
        return bool(arguments.color == "always")
    if os.environ.get("FORCE_COLOR"):
        return True
    if os.environ.get("NO_COLOR"):
        return False
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Says on standard error what takes longer than a second."""
    from threading import Timer

    from leafreport._leaf import escape

    timer = Timer(
        _SLOW_SECONDS, lambda: print(f"leafreport: {escape(what)} ...", file=sys.stderr, flush=True)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    sys.exit(main())
