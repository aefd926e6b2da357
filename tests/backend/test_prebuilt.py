"""Kernels that a wheel carries, for machines without a compiler."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns, which

import numpy as np
import pytest

from gpumlp.backend import NativeBackend
from gpumlp.backend.host import builder, prebuild, prebuilt
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS

ROOT = Path(__file__).parent.parent.parent
LEVEL = "x86-64-v3"  # quick to make
NAMES = ("program", "tiles", "product", "relu", "adam")
FLAGS = {name: set(wanted) for name, (_, wanted) in prebuilt.LEVELS.items()}
pytestmark = pytest.mark.skipif(
    builder.compiler() is None or prebuilt.level() not in list(FLAGS)[: list(FLAGS).index(LEVEL) + 1],
    reason=f"made by a compiler, for {LEVEL}",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with some kernels, for a level that this processor has."""
    place = tmp_path_factory.mktemp("prebuilt")
    assert prebuild.build(LEVEL, place / LEVEL, NAMES) == len(list((place / LEVEL).iterdir()))
    return place


@pytest.fixture
def no_compiler(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CXX", "/none/c++")
    monkeypatch.setattr(prebuilt, "FOLDER", place)
    for kept in (builder.compiler, prebuilt.folder):
        kept.cache_clear()
    yield
    monkeypatch.undo()
    for kept in (builder.compiler, prebuilt.folder):
        kept.cache_clear()


def levels_of(flags: set[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(prebuilt.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(prebuilt.Path, "read_text", lambda path: f"model name: x\nflags\t\t: {' '.join(flags)}\n")
    return prebuilt.level.__wrapped__()


def test_the_level_is_the_highest_whose_parts_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(prebuilt.LEVELS)
    for number, name in enumerate(names):
        has = set().union(*(FLAGS[below] for below in names[number:]))
        assert levels_of(has, monkeypatch) == name
        for one in FLAGS[name]:
            assert levels_of(has - {one}, monkeypatch) == (names[number + 1] if number + 1 < len(names) else None)
    # what is missing further down counts, too
    assert levels_of(set().union(*FLAGS.values()) - {"fma"}, monkeypatch) == "x86-64-v2"


def test_products_of_a_level_compile_for_its_processors(tmp_path: Path) -> None:
    """A level with pairs of bfloat16 and no tile registers has products of bfloat16 alone by them."""
    level = "avx512-bf16"
    assert prebuild.build(level, tmp_path / level, ("product",)) == len(prebuild.PRODUCTS[level])


def test_operations_are_those_of_the_compiled_backend(no_compiler: None) -> None:
    rng = np.random.default_rng(0)
    x, b = rng.standard_normal((64, 100)).astype("f4"), rng.standard_normal((100, 48)).astype("f4")
    found = NativeBackend()
    functions = found._builder.find(RECORDS["relu"], "forward", ("float",))
    assert list(functions) == ["relu_forward"]
    y = found.run(RECORDS["relu"], "forward", (x,))[0]
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_allclose(found.matmul(x, b), x.astype("f8") @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(which("nm") is None, reason="no nm: install binutils")
def test_two_libraries_of_one_source_share_no_variables(place: Path) -> None:
    """They are made for processors whose tables have other sizes."""
    if "Free Software" not in builder.version(builder.compiler() or ()):
        pytest.skip("g++ alone has variables that all libraries share")
    files = [*place.glob("*/*.so")]
    assert files
    for file in files:
        command = ["nm", "-D", "--defined-only", file]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not [line for line in said.splitlines() if " u " in line]


def test_what_did_not_come_runs_in_its_formula(no_compiler: None) -> None:
    x = np.linspace(-2, 2, 9, dtype="f4").reshape(3, 3)
    found = NativeBackend()
    assert found._builder.find(RECORDS["tanh"], "forward", ("float",)) == {}
    y = found.run(RECORDS["tanh"], "forward", (x,))[0]
    np.testing.assert_allclose(y, np.tanh(x), rtol=1e-6)


def test_another_text_is_not_found(no_compiler: None, tmp_path: Path) -> None:
    """A kernel that was made of another text than is at hand would compute something else."""
    for file in (ROOT / "kernels").glob("*.cu"):
        (tmp_path / file.name).write_text(file.read_text() + ("\n" if file.name == "relu.cu" else ""))
    assert builder.Builder(tmp_path).find(RECORDS["relu"], "forward", ("float",)) == {}
    assert builder.Builder(tmp_path).find(RECORDS["adam"], "forward", ("float",))


def test_a_damaged_one_is_an_error_that_says_what_to_do(
    no_compiler: None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(place, tmp_path / "prebuilt")
    for file in tmp_path.glob("prebuilt/*/program-*.so"):
        file.write_bytes(b"half")
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "prebuilt")
    prebuilt.folder.cache_clear()
    with pytest.raises(BackendError, match="cannot be loaded") as error:
        NativeBackend()
    assert error.value.hint == "install gpumlp again"


def test_a_wheel_with_them_trains_where_there_is_no_compiler(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building needs hatchling, which is in the extra 'dev'")
    tree = tmp_path / "tree"
    for folder in ("gpumlp", "kernels"):
        copytree(ROOT / folder, tree / folder, ignore=ignore_patterns("__pycache__", "prebuilt"))
    for file in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        (tree / file).write_bytes((ROOT / file).read_bytes())
    copytree(place, tree / "gpumlp" / "prebuilt")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    made = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from gpumlp.cli import main; main(sys.argv[1:])"
    )
    run = ["train", str(ROOT / "configs/digits.yaml"), "--set", "training.epochs=1", "--set", "backend=native"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *run],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "compiling" not in done.stderr
    assert "of training on native" in done.stdout
