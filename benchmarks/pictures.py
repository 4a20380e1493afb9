"""A part of a collection of small pictures in zip files, so that evidence fits into its hour."""

import zipfile
from pathlib import Path


def cut_pictures(source: Path, out: Path, **counts: int) -> Path:
    """The first pictures of every class, from ``<split>.zip`` files of ``split/class/number.jpg``.

    Args:
        source: folder of the zip files.
        out: new folder; one that is there already is kept.
        **counts: pictures a class, by split.

    Returns:
        The new folder.
    """
    if out.is_dir():
        return out
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        with (
            zipfile.ZipFile(source / f"{split}.zip") as whole,
            zipfile.ZipFile(partial / f"{split}.zip", "w") as part,
        ):
            for name in whole.namelist():
                if not name.endswith("/") and int(Path(name).stem) < count:
                    part.writestr(name, whole.read(name))
    partial.rename(out)
    return out
