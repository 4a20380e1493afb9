"""A stand-in for PyAV, for machines with a GPU and no decoder: systems import it, none needs it."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar


class _Absent(ModuleType):
    """A module of which every public name is a class of its own."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Exception,), {})
        setattr(self, name, made)
        return made


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "av" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def without_video() -> None:
    """Let ``import av`` succeed where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        sys.meta_path.append(_Finder())  # type: ignore[arg-type]
