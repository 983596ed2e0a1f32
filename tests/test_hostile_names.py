"""Names that no renderer may take at their word: escaped and whole in every form."""

import csv
import html
import io
import json
import re

import pytest

from leafreport import LeafReport, report

HOSTILE = {
    "script": "<script>alert('x')</script>",
    "entity": '&lt;b&gt; &amp; "quoted"',
    "comment": "--><!-- </style></details></div>",
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "c1 control": "\x9b31m\x85",
    "markup": "[red]not[/red] [link=http://x]",
    "newlines": "a\nb\r\nc\td\x0b\x0c",
    "line separators": "a\u2028b\u2029c",
    "right to left": "abc\u202egpj.exe\u2066",
    "invisible": "a\u200bb\ufeffc",
    "nul": "a\x00b",
    "lone high": "\ud800",
    "lone low": "x\udfffy",
    "pair in two": "\ud83d\ude00",
    "surrogates reversed": "\udc00\ud800",
    "long": "long" * 2500,
    "long of escapes": "\x1b" * 10_000,
    "empty": "",
    "dot": ".",
    "dots": "..",
    "slash": "/",
    "pipe": "a|b||",
    "backslash": "a\\nb\\",
    "backslash before a pipe": "\\|",
    "markdown": "*a* _b_ `c` ~~d~~ # e [f](g) ![h](i)",
    "quote and comma": 'a","b\'',
    "formula": "=1+1",
    "space": " a  b ",
    "unicode": "héé 日本 😀 é",
    "braces": "{0..3}",
    "percent": "%s {x} $y",
}
PLAIN_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}


def unescape(text):
    """Undoes the escapes of the text forms, by their definition alone."""

    def one(match):
        found = match[0]
        return PLAIN_ESCAPES.get(found) or chr(int(f"0{found[2:]}", base=16))

    return re.sub(r"\\(?:[nrt\\]|x[0-9a-f]{2}|u[0-9a-f]{4})", one, text)


def whole(shown, name):
    """Whether a shown step is the name, escaped."""
    return shown == '""' if name == "" else unescape(shown) == name


def safe(text):
    text.encode()
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
    )


@pytest.fixture(params=HOSTILE)
def name(request):
    return HOSTILE[request.param]


@pytest.fixture
def found(name):
    return report({"top": {name: 1}})


def test_text(name, found):
    text = found.to_text()
    safe(text)
    line = text.split("\n")[1]
    assert len(text.split("\n")) == 4
    assert line.startswith("top/")
    assert line.endswith("int")
    width = text.split("\n")[0].index("shape") - 2
    assert whole(line[4:width].ljust(len(name)) if name.endswith(" ") else line[4:width].rstrip(" "), name)


def test_tree(name, found):
    for text in (found.to_tree(), found.to_tree(fold=False)):
        safe(text)
        lines = text.split("\n")
        assert len(lines) == 4
        assert lines[2].startswith("    ")
        assert whole(lines[2][4:].removesuffix("  int"), name)
    colored = found.to_tree(color=True)
    assert colored.count("\x1b[") == 2 * 2 + 2 * 2 + 2 * 2
    assert unescape(re.sub("\x1b\\[[0-9;]*m", "", colored)) == unescape(found.to_tree())


def test_csv(name, found):
    text = found.to_csv()
    safe(text)
    (record,) = csv.DictReader(io.StringIO(text, newline=""))
    assert whole(record["path"].removeprefix("top/"), name)
    step = json.loads(record["steps"])[1]
    assert "".join(step) == name


def test_markdown(name, found):
    text = found.to_markdown()
    safe(text)
    line = text.split("\n")[2]
    cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
    path = re.match(r"\| ((?:\\.|[^\\|])*) \|", line)[1]
    assert len(cells) == 7
    assert not re.search(r"(?<!\\)(?:\\\\)*[*_`~<>\[\]#]", path)
    plain = html.unescape(re.sub(r"\\([\\|*_`~<>\[\]#])", r"\1", path.replace("\\&", "&")))
    assert whole(plain.removeprefix("top/"), name)


def test_html(name, found):
    text = found.to_html()
    safe(text)
    assert "<script" not in text
    assert text.count("</style>") == text.count("<style>") == 1
    label = re.findall(r"<b>(.*?)</b>", text)[2]
    assert not re.search("[<>\"']", label)
    assert whole(html.unescape(label), name)


def test_json(name, found):
    text = found.to_json()
    assert text.isascii()
    assert LeafReport.from_json(text) == found
    assert LeafReport.from_json(text).paths == (("top", name),)


def test_leaf_and_errors_and_repr(name, found):
    safe(str(found.leaves[0]))
    assert found.leaves[0].path == ("top", name)
    assert found[("top", name)] == found.leaves[0]
    with pytest.raises(LookupError, match="no leaf is at absent/") as caught:
        found[("absent", name)]
    safe(str(caught.value))


def test_group_table(found):
    for text in (found.to_text(depth=2), found.to_csv(depth=2), found.to_markdown(depth=2)):
        safe(text)


def test_folded_siblings(name):
    found = report({f"{name}0": 1, f"{name}1": 1})
    for text in (found.to_tree(), found.to_text(fold=True), found.to_markdown(fold=True), found.to_html()):
        safe(text)
        assert re.search(r"\{1?0..11?\}", text.replace("\\", ""))


def test_shared_note(name):
    import numpy as np

    array = np.zeros(2)
    found = report({name: array, f"z{name}": array})
    for text in (found.to_tree(), found.to_text(), found.to_text(fold=True), found.to_csv(), found.to_html()):
        safe(text)


def test_class_of_a_hostile_name(name):
    kind = type("Plain", (), {})
    kind.__name__ = kind.__qualname__ = name.replace("\x00", "").encode("utf-8", "replace").decode()
    kind.__module__ = name
    found = report([kind()])
    for text in (found.to_text(), found.to_tree(), found.to_csv(), found.to_html(), found.to_markdown()):
        safe(text)
    assert LeafReport.from_json(found.to_json()) == found
    assert "<script" not in found.to_html()


def test_check_of_safe_text_sees_what_is_not():
    for text in ("\x1b[31m", "a\u202eb", "\x9b", "\r"):
        with pytest.raises(AssertionError):
            safe(text)
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        safe("\ud800")
