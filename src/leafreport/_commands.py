"""What each command does: reads targets, prints, gives the exit code. Only what needs JAX imports it."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False  # a type checker takes it for true, and typing need not be imported
if TYPE_CHECKING:
    from typing import Any

    from leafreport._align._alignment import Alignment
    from leafreport._checkpoint._listing import Listing
    from leafreport._report import LeafReport

_SLOW_SECONDS = 1.0


def stack(arguments: Namespace) -> int:
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


def _stacks(arguments: Namespace, sample: object) -> int:
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


def show(arguments: Namespace) -> int:
    arguments.format = arguments.format or "text"
    _refuse_unused(arguments)
    from leafreport._target import load, on_disk

    path, step = on_disk(arguments.target)
    if path is not None and step is None:
        from leafreport._checkpoint._listing import listing

        if (choice := listing(path)) is not None:
            return _print_listing(choice, arguments)
    with _progress(f"reading {arguments.target}"):
        found = load(arguments.target, inputs=arguments.input, backend=arguments.backend, strict=True)
    _print_view(found, arguments)
    return 0


def diff(arguments: Namespace) -> int:
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
    with reader_may_leave():  # the exit code tells all the same
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


def align(arguments: Namespace) -> int:
    """Which leaf of one model is which of another; 0 where they are aligned and equal, 1 where not."""
    arguments.format = arguments.format or "tree"
    _refuse_unused(arguments, text=("depth", "fold"))
    from leafreport._align._aligning import align
    from leafreport._align._carry._convert import listed
    from leafreport._align._carry._saving import refuse_existing, save
    from leafreport._errors import AlignmentError, TargetError
    from leafreport._target import opened, sample

    if arguments.left == arguments.right == "-":
        raise TargetError("both sides are -: standard input can be read once. Save one side to a file.")
    inputs, inputs_right = (
        tuple(map(sample, given)) or None for given in (arguments.input, arguments.input_right)
    )
    if inputs is None and (inputs_right or arguments.verify):
        given = "--input-right" if inputs_right else "--verify"
        raise AlignmentError(f"{given} needs --input: what the left model's call takes.")
    if arguments.choose is not None and not (arguments.verify or arguments.convert):
        raise AlignmentError("--choose does nothing without --verify or --convert: leave it out.")
    if arguments.convert is not None:
        refuse_existing(arguments.convert)

    def run(sides: "list[Any]") -> int:
        with _progress(f"aligning {arguments.left} with {arguments.right}"):
            left, right = sides
            found = align(left, right, inputs, x_right=inputs_right, mapping=arguments.mapping)
        equal = found.ok
        verified = ""
        if arguments.verify:
            with _progress("running both"):
                result = found.verify(choose=arguments.choose)
            equal &= result.ok
            if arguments.format == "json":  # a document stays one
                print(f"leafreport: {result}", file=sys.stderr)
            else:
                verified = f"{result}\n"
        if arguments.convert is not None:
            with _progress(f"converting {arguments.left}"):
                made = found.convert(found.left.params, choose=arguments.choose)
                left_out = save(arguments.convert, made)
            if left_out:
                print(f"leafreport: no arrays, and not written: {listed(left_out)}", file=sys.stderr)
        out.append(_aligned(found, arguments) + verified)
        return 0 if equal else 1

    out: list[str] = []
    code = opened((arguments.left, arguments.right), run, traced=not (arguments.verify or arguments.convert))
    with reader_may_leave():
        if not arguments.quiet:
            sys.stdout.write(out[0])
        sys.stdout.flush()
    return code


def _aligned(found: "Alignment", arguments: Namespace) -> str:
    fold = sys.stdout.isatty() if arguments.fold is None else arguments.fold
    match arguments.format:
        case "json":
            return found.to_json()
        case "text":
            return found.to_text(max_rows=arguments.max_rows)
        case _:
            return found.to_tree(
                fold=fold, depth=arguments.depth, max_rows=arguments.max_rows, color=_color(arguments)
            )


def adapters(arguments: Namespace) -> int:
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


def _print_listing(found: "Listing", arguments: Namespace) -> int:
    """Steps or items, where a target is several trees; what is for one tree is refused."""
    from leafreport._errors import CheckpointError

    given = [
        name
        for name in ("depth", "max_rows", "fold", "include", "exclude", "input", "backend")
        if _is_given(arguments, name)
    ]
    if arguments.sort != "path":
        given.append("sort")
    wrong = [f"--{name.replace('_', '-')}" for name in given]
    if arguments.format not in ("text", "json"):
        wrong.append(f"--format {arguments.format}")
    if wrong:
        raise CheckpointError(
            f"{arguments.target!r} is several trees, and {wrong[0]} is for one. Without it they are listed."
        )
    sys.stdout.write(found.to_json() if arguments.format == "json" else found.to_text())
    return 0


def _is_given(arguments: Namespace, option: str) -> bool:
    return getattr(arguments, option) not in (None, [])


def _selected(found: "LeafReport", arguments: Namespace) -> "LeafReport":
    if not (arguments.include or arguments.exclude):
        return found
    chosen = found.select(*arguments.include, exclude=arguments.exclude)
    if not len(chosen) and len(found):
        print("leafreport: the patterns take no leaf", file=sys.stderr)
    return chosen


def _print_view(found: "LeafReport", arguments: Namespace) -> None:
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


def _refuse_unused(arguments: Namespace, *, text: tuple[str, ...] = ()) -> None:
    """An option that would do nothing is a mistake to hear of.

    Args:
        arguments: what was given.
        text: the options that do nothing with a command's own text.
    """
    from leafreport._errors import LeafReportError

    unused = {
        "text": text,
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


def _color(arguments: Namespace) -> bool:
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


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Lets a pipe's reader go before the end, as `head` does, without a word."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
