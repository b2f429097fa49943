"""Modules of a migration's folder, which are in no package: its stack, its generators, its functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from resettle.errors import ConfigError


def module_at(path: Path, *, alone: str = "") -> ModuleType:
    """The module at this path, executed once; ``alone``: a copy of its own, for who changes what is in it."""
    name = f"{alone}{path.resolve()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their own module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
