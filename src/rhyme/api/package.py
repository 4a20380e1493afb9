"""An encoder package from a run that has not come to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rhyme.api.data import part
from rhyme.api.fit import about, build_system, catalog_of, extra
from rhyme.encoders.files import check_target
from rhyme.errors import PackageError
from rhyme.recipes import load_recipe
from rhyme.run import RunFolder
from rhyme.training.newest import load_newest
from rhyme.training.packages import export_packages, is_package, write_package
from rhyme.training.saving import export_card


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """An encoder package that was written.

    Attributes:
        path: its folder.
        step: steps that the encoder was trained for.
    """

    path: Path
    step: int


def export_package(run: str | Path, out: str | Path | None = None) -> Packaged:
    """Write the encoder of a run's newest checkpoint as a package.

    The run may be stopped, or training at this moment: its state is read and nothing else.

    Args:
        run: run folder.
        out: new folder; by default the run's own ``encoder/``, which is replaced as a whole,
            along with its other exports.

    Raises:
        RunError: no such run.
        CheckpointError: it has no whole checkpoint, or one of another configuration.
        PackageError: ``out`` exists, or the system has no encoder.
    """
    folder = RunFolder.open(run)
    if out is not None:
        check_target(Path(out), overwrite=False)
    recipe = load_recipe(folder.config)
    catalog = catalog_of(folder.path)
    system = build_system(recipe)
    held = load_newest(folder, system, recipe.train)
    card = export_card(system, recipe.train, held.step, held.state["data"], folder)
    card |= about(recipe, catalog)
    kept = extra(part(catalog, "train"), system)
    encoder = system.exports().get("encoder")
    if encoder is None or not is_package(encoder):
        raise PackageError(
            "the system has no encoder",
            file=folder.path,
            stage="export",
            value=sorted(system.exports()),
        )
    if out is None:
        return Packaged(
            path=export_packages(system, folder.path, card, kept)["encoder"], step=held.step
        )
    write_package(Path(out), encoder, card, kept)
    return Packaged(path=Path(out), step=held.step)
