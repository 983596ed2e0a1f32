"""Claim: `leafreport --help` answers within four times of an interpreter that does nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

from _measure import Case, main


def command() -> str:
    """The installed command of this interpreter's environment."""
    found = shutil.which("leafreport", path=str(Path(sys.executable).parent))
    if found is None:
        raise SystemExit("the command leafreport is not installed beside this Python: pip install -e .")
    return found


def help_text(path: str) -> None:
    """The command as a shell starts it."""
    subprocess.run([path, "--help"], check=True, stdout=subprocess.DEVNULL)


def nothing(_: str) -> None:
    """The least an interpreter can do."""
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdout=subprocess.DEVNULL)


CASES = {"help": Case(command, help_text, nothing, 4.0, rounds=31)}

if __name__ == "__main__":
    main(CASES)
