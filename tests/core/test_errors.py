import pickle
import shutil
from pathlib import Path

from rhyme.errors import FileMissing, RhymeError, UnknownName, disk_trouble, nearest, printable


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = FileMissing("no such file", file="a\x1b[31m.mp4", stage="scan", value=3)
    text = str(error)
    assert text.startswith("no such file")
    assert "a\\x1b[31m.mp4" in text
    assert "scan" in text
    assert FileMissing.default_remedy is not None
    assert FileMissing.default_remedy in text


def test_an_error_crosses_processes_whole() -> None:
    error = UnknownName("unknown 'x'", file="f", stage="s", value=[1], remedy="r")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is UnknownName
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error)


def test_every_error_is_of_the_family() -> None:
    import rhyme.errors as module

    kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 15
    assert all(issubclass(kind, RhymeError) for kind in kinds)


def test_nearest_and_printable() -> None:
    assert "did you mean 'moco'" in nearest("mocco", ["moco", "dual"])
    assert nearest("zzz", ["moco", "dual"]) == "known: dual, moco"
    assert printable("a\nb\u202ec") == "a\\nb\\u202ec"


def test_a_copy_that_failed_names_its_first_file(tmp_path: Path) -> None:
    """`shutil` gives a list, or one sentence."""
    where = tmp_path / "b"
    failed = shutil.Error([("a", str(where), "[Errno 28] No space left on device: 'a' -> 'b'")])
    told = disk_trouble(failed, "embed")
    assert (told.cause, told.file, told.stage) == ("No space left on device", str(where), "embed")
    assert "already there" in disk_trouble(shutil.Error("it is already there")).cause
