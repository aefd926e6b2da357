"""A function of a user's Python file, by ``FILE.py:FUNCTION``. To have it, the file is run."""

from __future__ import annotations

import contextlib
import inspect
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp.autodiff import Tensor
from gpumlp.errors import ConfigError, GpumlpError, RunError, choices

MODULE = "<run_path>"  # what runpy calls a file that it runs


@dataclass(frozen=True)
class Source:
    """A function of a file and what it is to be called with."""

    path: Path
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn what goes wrong in the user's code into an error that names its line."""
        with _blamed(self.path):
            yield


def is_source(argument: str) -> bool:
    """Return whether this names a function of a Python file."""
    return argument.rpartition(":")[0].endswith(".py") or argument.endswith(".py")


def load_source(argument: str) -> Source:
    """Run the file of ``FILE.py:FUNCTION`` and return the function, with what it is to be called with.

    Arguments get their defaults, or else what the file has under their names.
    Raises ConfigError where there is no such file, function or name, RunError where the file fails.
    """
    file, _, name = argument.rpartition(":") if not argument.endswith(".py") else (argument, "", "")
    path = Path(file)
    if not path.is_file():
        raise ConfigError("there is no such file", where=str(path))
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` would
    with _blamed(path):
        names = runpy.run_path(str(path))
    functions = {k: v for k, v in names.items() if inspect.isfunction(v)}
    if name not in functions:
        message = f"there is no function {name!r}" if name else f"pass {path}:FUNCTION"
        defined = [k for k, v in functions.items() if v.__module__ == MODULE]
        hint = choices(name, defined) if defined else "the file defines no functions"
        raise ConfigError(message, where=str(path), hint=hint)
    function = functions[name]
    return Source(path, function, tuple(_inputs(path, function, names)))


def _inputs(path: Path, function: Callable[..., Any], names: dict[str, Any]) -> Iterator[Tensor]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        value = names.get(parameter.name) if parameter.default is parameter.empty else parameter.default
        if value is None:
            raise ConfigError(
                f"{function.__name__} takes {parameter.name!r}, which the file does not define",
                where=str(path),
                hint=f"give the argument a default, or the file a tensor {parameter.name} = ...",
            )
        with _blamed(path):
            yield value if isinstance(value, Tensor) else Tensor(value)


@contextlib.contextmanager
def _blamed(path: Path) -> Iterator[None]:
    try:
        yield
    except GpumlpError:
        raise  # says all there is to say
    except SyntaxError as error:
        raise RunError(f"not valid Python: {error.msg}", where=f"{error.filename}:{error.lineno}") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise RunError(message, where=f"{path}:{line}" if line else str(path)) from None
