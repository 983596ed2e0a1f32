"""Distributions as an installer leaves them: a module and a dist-info folder, on the import path."""

from pathlib import Path

TOY = """
import leafreport

class Toy:
    name = "{name}"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        import jax

        width = x.shape[-1]
        params = [{{"w": jax.ShapeDtypeStruct((width, width), x.dtype)}} for _ in range(num_layers)]
        return leafreport.Model(params, lambda params, x: x)

adapter = Toy()
"""


def install(
    folder: Path,
    distribution: str,
    entry_points: dict[str, str],
    *,
    modules: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
    version: str = "1.2.3",
) -> None:
    """Writes modules and metadata into a folder, which then is a place to install to."""
    folder.mkdir(exist_ok=True)
    for name, code in (modules or {}).items():
        (folder / f"{name}.py").write_text(code)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}", *lines]) + "\n"
    )
    points = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[leafreport.adapters]", *points]) + "\n")
