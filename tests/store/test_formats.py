from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.errors import RunError, WriteError
from gpumlp.store import formats
from gpumlp.store.atomic import new_folder, replace_file

ARRAYS = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2)), "empty": np.zeros((0, 4), np.int64)}


def test_arrays_come_back_exactly(tmp_path: Path) -> None:
    checksum = formats.write_arrays(tmp_path / "x.safetensors", ARRAYS, {"epoch": 3, "best": [1.5]})
    arrays, meta = formats.read_arrays(tmp_path / "x.safetensors")
    assert meta == {"epoch": 3, "best": [1.5], "sha256": checksum}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    formats.write_arrays(tmp_path / "x", ARRAYS, {"k": 1})
    formats.write_arrays(tmp_path / "y", dict(reversed(ARRAYS.items())), {"k": 1})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize("position", [0, 5, 40, -1])
def test_a_flipped_byte_is_seen(tmp_path: Path, position: int) -> None:
    path = tmp_path / "x.safetensors"
    formats.write_arrays(path, ARRAYS, {"epoch": 3})
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"x\.safetensors"):
        formats.read_arrays(path)


@pytest.mark.parametrize("length", [0, 4, 30, 200])
def test_a_file_cut_short_is_seen(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    formats.write_arrays(path, ARRAYS, {"epoch": 3})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match="damaged"):
        formats.read_arrays(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing\.json.*missing"):
        formats.read_json(tmp_path / "nothing.json")
    with pytest.raises(RunError, match=r"nothing\.safetensors.*missing"):
        formats.read_arrays(tmp_path / "nothing.safetensors")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    formats.write_text(path, "old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="No space left on device"):
        formats.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed_unless_they_lead_in_a_circle(tmp_path: Path) -> None:
    kept, link, circle = (tmp_path / name for name in ("kept", "link", "circle"))
    kept.write_text("old")
    link.symlink_to(kept)
    circle.symlink_to(circle)
    for place in (link, circle):
        formats.write_text(place, "new")
        assert place.read_text() == "new"
    assert link.is_symlink()
    assert kept.read_text() == "new"


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no /dev/fd on this system")
def test_a_pipe_is_written_to_by_its_number() -> None:
    """As in ``-o /dev/stdout | less``, whose link leads to no name."""
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reader:
        formats.write_text(Path(f"/dev/fd/{into}"), "for who reads")
        os.close(into)
        assert reader.read() == b"for who reads"


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_who_may_read_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    formats.write_text(path, "for all")
    usual = path.stat().st_mode
    path.chmod(0o600)
    formats.write_text(path, "for me")
    assert path.stat().st_mode & 0o777 == 0o600
    formats.write_text(tmp_path / "other", "for all")
    assert (tmp_path / "other").stat().st_mode == usual


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        formats.write_text(tmp_path / "no" / "x.txt", "new")


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".x.txt.{os.getpid()}.part").write_text("half")
    formats.write_text(tmp_path / "x.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "whole"


def test_what_killed_processes_left_beside_a_file_goes_when_it_is_written(tmp_path: Path) -> None:
    kept = [tmp_path / ".y.txt.7.part", tmp_path / ".x.txt.part", tmp_path / ".x.txt.8.part"]
    for path in (*kept, tmp_path / ".x.txt.9.part"):
        path.touch()
    fcntl = pytest.importorskip("fcntl", reason="files are not locked there")
    with kept[-1].open("rb") as written:  # by another process, whatever its number: perhaps in another container
        fcntl.flock(written, fcntl.LOCK_EX)
        formats.write_text(tmp_path / "x.txt", "whole")
        assert set(tmp_path.iterdir()) == {tmp_path / "x.txt", *kept}
    formats.write_text(tmp_path / "x.txt", "whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "x.txt", *kept[:-1]}


def test_what_killed_processes_left_beside_a_folder_goes_when_it_is_made(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="folders are not locked there")
    left = tmp_path / ".x.9.part"
    (left / "inner").mkdir(parents=True)
    with new_folder(tmp_path / "x") as first:  # as another process does at the same time
        (first / "of").write_text("first")
        assert not left.exists()
        with new_folder(tmp_path / "x") as second:
            assert first.is_dir()
            (second / "of").write_text("second")
        with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "x"):
            pass
        assert (tmp_path / "x" / "of").read_text() == "second"
        (tmp_path / "x" / "of").unlink()
    assert (tmp_path / "x" / "of").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_folder_is_replaced_whole_or_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    renames, rename = [0], os.rename

    def failing(*paths: Path) -> None:
        renames.append(1)
        if sum(renames) == at:
            raise OSError("no")
        rename(*paths)

    def replace() -> None:
        with new_folder(tmp_path / "x", replace=True) as folder:
            (folder / "new").touch()
            if at == 0:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", failing)
        with pytest.raises(OSError if at else KeyboardInterrupt):
            replace()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["x", "x/old"]
    at = -1
    replace()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["x", "x/new"]


def test_a_file_of_a_folder_is_called_by_its_name_there(tmp_path: Path) -> None:
    def make(name: str) -> None:
        with formats.making_folder(tmp_path / "x") as folder:
            formats.write_text(folder / name, "whole")

    with pytest.raises(WriteError, match=f"^{tmp_path}/x/nowhere/y: cannot be written: No such file") as caught:
        make("nowhere/y")
    assert caught.value.where == str(tmp_path / "x" / "nowhere" / "y")
    with pytest.raises(WriteError, match=f"^{tmp_path}/nowhere/y: cannot be written"):
        make(str(tmp_path / "nowhere" / "y"))
    assert not list(tmp_path.iterdir())
    make("y")
    assert (tmp_path / "x" / "y").read_text() == "whole"
    with pytest.raises(WriteError, match=f"^{tmp_path}/x: cannot be written: Directory not empty"):
        make("y")


def test_processes_that_write_one_file_lose_nothing(tmp_path: Path) -> None:
    """As in two containers whose processes have the same numbers: each finds the parts of the others."""
    code = (
        "import os, sys; from pathlib import Path; from gpumlp.store.atomic import replace_file\n"
        "os.getpid = lambda: 7\n"
        "for number in range(60): replace_file(Path(sys.argv[1]), sys.argv[2].encode() * 20000)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    processes = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "abc"]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert (tmp_path / "file").read_text() in [name * 20000 for name in "abc"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_threads_that_write_one_file_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    contents = [str(number).encode() * 1000 for number in range(4)]
    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(lambda number: formats.write_bytes(tmp_path / "file", contents[number % 4]), range(80)))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    formats.append_line(path, {"epoch": 1})
    resource = pytest.importorskip("resource", reason="there is no limit on the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(formats.WriteError, match="File too large"):
            formats.append_line(path, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == '{"epoch": 1}\n'


def test_a_folder_that_is_interrupted_as_it_is_replaced_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("1")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name != "x":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "x", replace=True) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_error_of_closing_what_is_on_the_disk_is_of_no_consequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(io.BufferedWriter):
        def close(self) -> None:
            if not self.closed:
                super().close()
                raise OSError(errno.EIO, "Input/output error")

    open_ = Path.open

    def opened(path: Path, mode: str, *rest: Any) -> Any:
        return Closing(io.FileIO(path, "x")) if mode == "xb" else open_(path, mode, *rest)

    monkeypatch.setattr(Path, "open", opened)
    for content in (b"older", b"new"):
        replace_file(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_comes_back_with_the_next_call_where_nothing_can_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename, calls = tmp_path / "folder", os.rename, iter(range(9))
    folder.mkdir()
    (folder / "old").touch()

    def fails(source: Path, target: Path) -> None:
        if next(calls):  # the first one moves the old folder aside
            raise OSError(errno.EROFS, "Read-only file system")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with (
            pytest.raises(OSError, match=r"Read-only file system; what was there is in \.folder\.\d+\.old"),
            new_folder(folder, replace=True) as beside,
        ):
            (beside / "new").touch()
    assert [[each.name for each in aside.iterdir()] for aside in tmp_path.iterdir()] == [["old"]]
    with pytest.raises(KeyboardInterrupt), new_folder(folder, replace=True):
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert [each.name for each in folder.iterdir()] == ["old"]
