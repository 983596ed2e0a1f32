"""A tree of rows as one static page. `<details>` fold it: no script is needed. It follows light and dark."""

from collections.abc import Sequence
from html import escape as html_escape

from leafreport._render._rows import Row, facts, shallow, title

_MOST_OPEN = 60

_STYLE = """
.leafreport { color-scheme: light dark; font: 14px/1.6 ui-monospace, Menlo, Consolas, monospace;
  color: light-dark(#1f2328, #e6edf3); background: light-dark(#ffffff, #0d1117); padding: 0.6em 1em;
  overflow-wrap: anywhere; }
.leafreport details > *:not(summary), .leafreport .leaf { margin-left: 1.5em; }
.leafreport summary { cursor: pointer; }
.leafreport summary:focus-visible { outline: 2px solid light-dark(#0550ae, #79c0ff); }
.leafreport b { font-weight: 600; }
.leafreport .facts { color: light-dark(#57606a, #9da7b3); margin-left: 1ch; }
.leafreport .total { margin: 0.6em 0 0; white-space: pre-wrap; }
""".strip()


def tree_html(rows: Sequence[Row], footer: Sequence[str] = ()) -> str:
    """A whole page, self-contained. Rows past the first few levels are folded; nothing is left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>leafreport</title>\n'
        f"</head>\n<body>\n{tree_fragment(rows, footer)}</body>\n</html>\n"
    )


def tree_fragment(rows: Sequence[Row], footer: Sequence[str] = ()) -> str:
    """The tree and its style, to stand within someone else's page, as a notebook's cell does."""
    drawn = list(shallow(rows))
    out = [f'<div class="leafreport">\n<style>\n{_STYLE}\n</style>']
    depths: list[int] = []
    for i, row in enumerate(drawn):
        while depths and depths[-1] >= row.depth:
            out.append("</details>")
            depths.pop()
        text = f'<b>{html_escape(title(row))}</b><span class="facts">{html_escape(facts(row))}</span>'
        if i + 1 < len(drawn) and drawn[i + 1].depth > row.depth:
            is_open = " open" if row.depth < 2 or len(drawn) <= _MOST_OPEN else ""
            out.append(f"<details{is_open}><summary>{text}</summary>")
            depths.append(row.depth)
        else:
            out.append(f'<div class="leaf">{text}</div>')
    out += ["</details>"] * len(depths)
    out += [f'<p class="total">{html_escape(line)}</p>' for line in footer]
    return "\n".join(out) + "\n</div>\n"
