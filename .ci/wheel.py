"""Looks into a built wheel and source archive: `python .ci/wheel.py DIST_FOLDER`."""

import configparser
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> list[str]:
    """What is wrong; nothing, when all is well."""
    wrong: list[str] = []
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(opened.read(f"{info}/METADATA").decode())
        points = configparser.ConfigParser()
        points.read_string(opened.read(f"{info}/entry_points.txt").decode())
    package = {f.relative_to(ROOT / "src").as_posix() for f in (ROOT / "src").rglob("*.py")}
    adapters = {file.name for file in (ROOT / "adapters").glob("*.py")}
    wanted = package | adapters | {"leafreport/py.typed"}
    found = {name for name in names if not name.startswith(f"{info}/")}
    wrong += [f"missing from the wheel: {name}" for name in sorted(wanted - found)]
    wrong += [f"does not belong in the wheel: {name}" for name in sorted(found - wanted)]
    if f"{info}/licenses/LICENSE" not in names:
        wrong.append("the wheel has no LICENSE")
    if metadata["License-Expression"] != "Apache-2.0":
        wrong.append(f"the license is {metadata['License-Expression']!r}")
    if points.get("console_scripts", "leafreport", fallback="") != "leafreport._cli:main":
        wrong.append("the command leafreport is missing")
    modules = {value.partition(":")[0] + ".py" for _, value in points.items("leafreport.adapters")}
    wrong += [f"no entry point: {name}" for name in sorted(adapters - modules)]
    with tarfile.open(archive) as opened:
        packed = {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}
    for part in ("tests", "docs", "bench", "src", "adapters"):
        files = {f.relative_to(ROOT).as_posix() for f in (ROOT / part).rglob("*") if f.is_file()}
        missing = {f for f in files if "__pycache__" not in f} - packed
        wrong += [f"missing from the source archive: {name}" for name in sorted(missing)]
    return wrong


if __name__ == "__main__":
    problems = main(Path(sys.argv[1]))
    print("\n".join(problems) or "wheel: package, py.typed, adapters, entry points and nothing else")
    sys.exit(bool(problems))
