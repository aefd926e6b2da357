"""``make gpu``, on a CPU: every part that can run does, and one that fails or hangs stops none of the others."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backend.fake_cupy import installed

from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.host import builder
from gpumlp.errors import BackendError

ROOT = Path(__file__).parents[2]


NOT_INSTALLED = """
import importlib.metadata

installed = importlib.metadata.distribution

def distribution(name):
    if name == "gpumlp":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.distribution = distribution
"""
"""A program that begins with these lines finds gpumlp in a checkout alone, as on a borrowed machine."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


NOT_INSTALLED = """
import importlib.metadata as metadata
known = metadata.distribution
def distribution(name):
    if name == "gpumlp":
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.distribution = distribution
"""
"""As on a machine that has this checkout and no installation of it."""


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_every_part_that_can_run_on_a_cpu_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: ModuleType
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))  # PyTorch, which takes long to import
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "torch.py").write_text("raise ImportError")
    (tmp_path / "without" / "sitecustomize.py").write_text(NOT_INSTALLED)
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--backend", "native", "--tiny"]
    result = subprocess.run([*command, "--results", str(tmp_path / "here")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = (tmp_path / "here").glob("native-*.json")
    report = json.loads(file.read_text())
    status = {name: part["status"] for name, part in report["parts"].items()}
    assert status == dict.fromkeys(gpu.SHARES, "passed") | {"sanitizer": "skipped"}
    found = {name: part["found"] for name, part in report["parts"].items()}
    assert found["truth"] == {"wrong": {}, "asked": {"sums": 6 * 3 * 2, "edges": 6 * 3, "repeats": 6 * 3}}
    assert found["agreement"]["checked"] == 8
    assert "passed" in found["tests"]["summary"]
    assert [k["kernel"] for k in found["kernels"]["kernels"]] == ["relu_forward", "leaky_relu_forward"]
    recipes = importlib.import_module("recipes").RECIPES
    assert found["training"]["runs"].keys() == {"breast_cancer", *recipes}
    assert all(run["apart"] < 1e-4 for run in found["training"]["runs"].values())
    assert any(name.startswith("copy of") for name in found["facts"])
    steps = found["steps"]["workloads"]
    compared = {name: ways for name, ways in steps.items() if name.startswith("graph and eager")}
    assert compared.keys() > {f"graph and eager, {name}" for name in recipes if "schedule" in name}
    assert all(set(ways.values()) == {"the same bits"} for ways in compared.values())
    assert all(steps[name.removeprefix("graph and eager, ")]["eager, µs"] > 0 for name in compared if ", " in name)
    tiny = steps["16-32-4, batch 32, float32"]
    assert tiny["launches a step"] == 1 <= tiny["calls a step"]
    assert tiny["share of the floor"] > 0
    text = file.with_suffix(".md").read_text()
    assert "| products are right, and the same each time | truth | shown: 72 products |" in text
    assert "| auto takes the device where that is faster | auto | measured: right for " in text
    assert re.search(r"a block each, take .* not shown: trained in turn: 16-32-4, batch 8, 3 at once \|", text)
    assert "| no kernel reads or writes outside of its arrays | sanitizer | not shown |" in text
    for heading in (name for name, state in status.items() if state == "passed"):
        assert f"\n## {heading}\n" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.name, file.with_suffix(".md").name}


def test_a_part_that_fails_hangs_or_dies_stops_no_other(gpu: ModuleType, tmp_path: Path) -> None:
    def python(code: str) -> tuple[str, ...]:
        return sys.executable, "-c", f"import sys, time; {code}"

    keep = "f = open(sys.argv[1], 'a'); f.write('[[\"half\"], 1]\\n'); f.flush(); "
    late = f"import subprocess; {keep} f.write('[[\"cut'); f.flush(); subprocess.run(['sleep', '60'])"
    chosen = [
        gpu.Part("fails", 1, python("print('why'); sys.exit(3)")),
        gpu.Part("hangs", 1, python(late)),
        gpu.Part("dies", 1, python(f"import os; {keep} os.abort()")),
        gpu.Part("garbles", 1, python(f"{keep} f.buffer.write(bytes(range(128, 250)) + b'\\n7\\n[7]\\n')")),
        gpu.Part("leaves out", 1, python("print('not here'); sys.exit(4)")),
        gpu.Part("passes", 1, python(keep)),
    ]
    started = time.monotonic()
    told: list[dict[str, Any]] = []
    outcomes = gpu.run(chosen, 12.0, lambda outcomes: told.append(dict(outcomes)), tmp_path / "report")
    assert time.monotonic() - started < 30
    status = {name: outcome["status"] for name, outcome in outcomes.items()}
    assert status == {
        "fails": "failed",
        "hangs": "late",
        "dies": "failed",
        "garbles": "failed",
        "leaves out": "skipped",
        "passes": "passed",
    }
    assert outcomes["fails"]["said"] == "why"
    assert outcomes["hangs"]["found"] == {"half": 1}
    assert outcomes["garbles"]["found"] == outcomes["dies"]["found"] == {"half": 1}
    assert outcomes["garbles"]["said"] == "3 lines of what it found cannot be read"
    assert outcomes["dies"]["said"] == "killed by signal 6"
    assert list(tmp_path.iterdir()) == []
    assert "Fatal Python error: Aborted" in outcomes["dies"]["log"]
    assert [len(kept) for kept in told] == [1, 2, 3, 4, 5, 6]
    assert outcomes["leaves out"]["said"] == "not here"


def test_what_cannot_even_be_killed_stops_no_other(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what waits for a driver that does not answer."""

    class Stuck:
        pid = 2**22 + 1  # more than there can be

        def wait(self, seconds: float) -> int:
            raise subprocess.TimeoutExpired("part", seconds)

    monkeypatch.setattr(gpu.subprocess, "Popen", lambda *_, **__: Stuck())
    outcomes = gpu.run([gpu.Part("stuck", 1, ()), gpu.Part("next", 1, ())], 10.0)
    assert [outcome["status"] for outcome in outcomes.values()] == ["late", "late"]
    assert outcomes["next"]["said"] == "stopped after 10 s"


def test_a_finding_is_a_line_and_each_is_written_once(gpu: ModuleType, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep = gpu.Findings(kept)
    found: dict[str, Any] = {"wrong": {}, "asked": {"sums": 1}, "rows": [[1, 2]], "judge": "numpy"}
    keep(found)
    found["asked"]["sums"], found["rows"] = 2, [[1, 2], {"x": float("nan")}]
    found["wrong"]["line\nbreak"] = "µ"
    keep(found)
    assert len(kept.read_text().splitlines()) == 4 + 3
    read, unread = gpu.read(kept)
    assert unread == 0
    assert str(read) == str(found)
    assert gpu.read(tmp_path / "none") == ({}, 0)


@pytest.mark.parametrize(
    "findings",
    [
        [{1: "a", 8: "b"}, {1: "a", 8: "c"}],
        [[1, 2, 3], [9], [9, 4]],
        [[], [1], []],
        [None, {"a": 1}, {"b": 1}, {}],
        [{"a": 1}, "text", [{"a": 1}]],
    ],
    ids=["numbers as names", "fewer", "empty again", "other names", "other kinds"],
)
def test_what_is_found_replaces_what_was(gpu: ModuleType, tmp_path: Path, findings: list[Any]) -> None:
    keep = gpu.Findings(tmp_path / "kept")
    for fact in findings:
        keep({"fact": fact})
        assert gpu.read(tmp_path / "kept") == (json.loads(json.dumps({"fact": fact})), 0)


def test_what_a_killed_run_has_left_is_not_found_again(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "name.truth.jsonl").write_text('[["wrong", "sums"], "of an old run"]\n')
    part = gpu.Part("truth", 1, (sys.executable, "-c", ""))
    assert gpu.run([part], 10.0, stem=tmp_path / "name")["truth"]["found"] == {}


def test_the_parts_of_a_call_fit_into_it(gpu: ModuleType) -> None:
    for call in gpu.CALLS.values():
        assert sum(gpu.SHARES[name] for name in call) <= 60 * gpu.CALL_MINUTES - 20


def test_time_left_over_goes_to_the_parts_that_follow(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def note(part: Any, seconds: float, kept: Path) -> dict[str, Any]:
        given.append(round(seconds))
        return {"status": "passed", "seconds": 0.0, "said": ""}

    monkeypatch.setattr(gpu, "run_part", note)
    gpu.run([gpu.Part(name, share, ()) for name, share in (("a", 1), ("b", 2), ("c", 1))], 400.0)
    assert given == [100, 300, 400]


def test_a_wrong_result_fails_its_part(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = importlib.import_module("parts")
    monkeypatch.setattr(parts, "faults", lambda *_: iter([("tanh_forward", "y differs"), ("tanh_backward", "")]))
    kept = tmp_path / "kept.json"
    assert gpu.do("agreement", "numpy", False, kept) == 1
    assert gpu.read(kept) == ({"checked": 2, "wrong": {"tanh_forward": "y differs"}}, 0)
    monkeypatch.setattr(parts, "faults", lambda *_: 1 / 0)
    assert gpu.do("agreement", "numpy", False, kept) == 1


class Wrong(Backend):
    """A library that loses the end of long sums, drops NaN in ReLU, and never computes the same twice."""

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        whole = b.shape[0] - b.shape[0] % 64 or b.shape[0]
        made = super().matmul(a[:, :whole], b[:whole], out)
        self.count = getattr(self, "count", 0) + 1
        made[0, 0] += 1e-3 * self.count * (np.ptp(self.to_host(a).astype("f8")) > 0)
        return made

    def dense(self, op: Any, x: Any, W: Any, b: Any) -> Any:
        y, z = super().dense(op, x, W, b)
        return np.nan_to_num(y, nan=0.0, posinf=np.inf), z


@pytest.mark.parametrize("question", ["sums", "edges", "repeats"])
def test_a_library_that_is_wrong_is_found(gpu: ModuleType, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = importlib.import_module("truth")
    monkeypatch.setattr(truth, "TALL", (65, 1000))
    ask, _ = truth.QUESTIONS[question]
    assert not any(said for _, said in ask(Backend(), 7))
    assert any(said for _, said in ask(Wrong(), 7))


def test_a_claim_that_is_wrong_or_not_shown_is_told(gpu: ModuleType) -> None:
    report = importlib.import_module("gpu_report")
    wrong = {"wrong": {"sums: float32 3 x 65 x 3": "9 of 9 numbers are not 65"}, "asked": {"sums": 4}}
    parts = {
        "truth": {"status": "failed", "found": wrong},
        "agreement": {"status": "late", "found": {"checked": 3, "wrong": {}}},
        "tests": {"status": "skipped", "found": {}},
        "steps": {"status": "passed", "found": {"wrong": {}, "workloads": {"A": {}, "B": {}}}},
        "members": {"status": "passed", "found": {"networks": {"A, 8 at once": {"a block each": True}}}},
    }
    rows = [row.strip("| ").split(" | ") for row in report.verdict(parts)[2:]]
    assert len(rows) == len(report.CLAIMS)
    said = {(part, verdict) for _, part, verdict in rows}
    assert ("truth", "CONTRADICTED: 1 wrong, as sums: float32 3 x 65 x 3") in said
    assert ("steps", "shown: A, B") in said
    assert ("members", "not shown: KeyError: 'A, 1 at once'") in said
    for name in ("agreement", "tests", "kernels", "sanitizer", report.NOBODY):
        assert {verdict for part, verdict in said if part == name} == {"not shown"}


def test_networks_in_turn_show_nothing_of_those_in_blocks(gpu: ModuleType) -> None:
    at_once = importlib.import_module("gpu_report")._at_once
    alone = {"A, 1 at once": {"µs a step of one": 6, "a block each": False}}
    in_block = alone | {"A, 8 at once": {"µs a step of one": 2, "a block each": True}}
    in_turn = in_block | {"A, 132 at once": {"µs a step of one": 3, "a block each": False}}
    assert at_once({"networks": in_block}) == "measured: A, 8 at once 3.0 times as fast"
    assert at_once({"networks": in_turn}) == "not shown: trained in turn: A, 132 at once"
    assert at_once({"networks": alone}) == "not shown: no more than one"


def test_a_part_that_ended_early_has_a_report(gpu: ModuleType) -> None:
    report = importlib.import_module("gpu_report")
    about = {"name": "GPU", "backend": "cupy", "missing": []}
    for found in ({"half": 1}, {"wrong": {"a": "b"}}, {"kernels": [7]}):
        outcome = {"status": "late", "seconds": 1.0, "said": "", "log": "where it was", "found": found}
        text = report.markdown({"machine": about, "parts": dict.fromkeys(gpu.SHARES, outcome)})
        assert all(f"\n## {name}\n" in text for name in gpu.SHARES)
        assert text.count("where it was") == len(gpu.SHARES)


NO_CLAIMS = {
    "README.md": ("needs no network after the installation", "| `preset: strong`"),
    "docs/commands.md": ("`preset: tabular` is the recipe",),
    "docs/gpu.md": (
        "# On a GPU",
        "| CUDA 1",
        "| a CUDA toolkit",
        "| `GPUMLP_CUBLASLT=0`",
        "In Python: `CupyBackend(",
        "`make gpu` (nine minutes at most)",
    ),
    "docs/kernels.md": (
        "Every operation is a record",
        "is two plain loops",
        "`tests/backend/test_agreement.py` runs",
        "**Checked, in the tests.**",
    ),
    "docs/scale.md": ("## On GPUs",),
    "docs/settings.md": ("| `device`", "| `preset`", "| `members.count`"),
}
"""What mentions GPUs and says nothing that one could bear out, by how it begins: headings, options, tests."""


def test_all_that_is_said_of_gpus_has_a_verdict(gpu: ModuleType) -> None:
    report = importlib.import_module("gpu_report")
    assert {claim.part for claim in report.CLAIMS} <= {*gpu.SHARES, report.NOBODY}
    known = {place for claim in report.CLAIMS for place in claim.places}
    known |= {(file, start) for file, starts in NO_CLAIMS.items() for start in starts}
    words = re.compile(r"\bGPUs?\b|CUDA|cuBLASLt|NVRTC|NCCL|CuPy")
    used = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        name = page.relative_to(ROOT).as_posix()
        for paragraph in re.split(r"\n\s*\n", page.read_text()):
            rows = paragraph.splitlines() if re.match(r"[|#-]", paragraph) else [paragraph]
            for text in map(str.strip, rows):
                found = {(file, start) for file, start in known if file == name and text.startswith(start)}
                used |= found
                if words.search(text) and name != "docs/decisions.md":  # why it is so, not what it does
                    assert found, f"{name}: {text[:80]!r} has no verdict in benchmarks/gpu_report.py"
    assert known == used


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_the_recipes_take_all_that_tables_are_trained_with(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as graphs of a stand-in for the device they leave the bits of eager steps."""
    recipes, steps = importlib.import_module("recipes"), importlib.import_module("steps")
    called, launches = set(), {}
    with installed(monkeypatch):
        for name, recipe in recipes.RECIPES.items():
            if "at once" not in name:
                plan = steps.of_recipe(recipe, CupyBackend()).captured()
                called |= {call.name for call in plan.calls}
                launches[name] = len(plan.runs)
        assert launches == dict.fromkeys(launches, 1) | {"tabular, mixup": 3}  # graph, the share of a batch, graph
        for name in ("bf16, members", "schedule-free"):
            make = partial(steps.of_recipe, recipes.RECIPES[name])
            assert set(steps.same_bits("cupy", make).values()) == {"the same bits"}
    assert {
        *("ple_forward", "ple_backward", "pbld_forward", "pbld_backward", "expand_forward"),
        *("mish_mixed_forward", "selu_mixed_backward", "member_scale_forward", "member_scale_backward"),
        *("code_sum_forward", "code_sum_backward", "gradient_norm_forward", "add_square_forward"),
        *("schedule_free_forward", "adam_forward", "dropout_backward", "mixup share"),
    } <= called


def test_two_calls_are_all_parts(gpu: ModuleType) -> None:
    assert set(gpu.CALLS[1]) | set(gpu.CALLS[2]) == set(gpu.SHARES)
    assert gpu.CALLS[1][0] == gpu.CALLS[2][0] == "truth"


def test_without_a_device_there_is_one_message(tmp_path: Path) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("there is a CuPy here")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--results", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "cupy cannot be had here" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_report_of_the_day_stays(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUT", raising=False)
    report = {"machine": {"name": "GPU (R) 9", "backend": "cupy", "missing": ["pytest"]}, "parts": {}}
    names = []
    for _ in range(3):
        stems = gpu.places(report["machine"], tmp_path)
        written = [gpu.write(report, stems) for _ in range(2)]  # after one part, and after another
        assert written[0] == written[1]
        names.append(written[0][1].stem)
    assert names[0].startswith("cupy-gpu-r-9-20")
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    assert "not installed: pytest" in (tmp_path / f"{names[0]}.md").read_text()


class Instant:
    """A clock that makes each call once and finds that it took a microsecond."""

    def __init__(self, backend: Any, *_: object) -> None:
        self.backend = backend

    def warm(self, call: Any) -> Any:
        with self.backend.quiet():
            call()
        return SimpleNamespace(median=1e-6)

    def at(self, size: int) -> Any:
        return SimpleNamespace(cold=1e9)


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_what_only_a_device_can_tell_is_asked_in_the_right_words(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device that only records: every question about cuBLASLt and steps can be asked."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    fake_cupy = importlib.import_module("backend.fake_cupy")
    device, steps = importlib.import_module("device"), importlib.import_module("steps")
    monkeypatch.setattr(device, "Clock", Instant)
    monkeypatch.setattr(device, "OFFERED", ((16, 8, 12), (7, 5, 3)))
    monkeypatch.setattr(device, "PADDED", {(16, 8, 3): (16, 8, 16)})
    monkeypatch.setattr(steps, "Clock", Instant)
    monkeypatch.setattr(steps, "Copies", Instant)
    monkeypatch.setattr(steps, "_timed", lambda own, way, *_: (own.captured(), way(), (1e-6, 1e-6))[-1])
    with fake_cupy.installed(monkeypatch) as fake:
        fake.lt.offered = {1, 6}
        backend = CupyBackend()
        told = {name: fact() for name, fact in device._offers(backend)}
        fake.lt.keeps_nan = False
        asked = {name: fact() for name, fact in device._offers(backend) if "NaN" in name}
        found = dict(steps.examine("cupy", tiny=True))
    assert set(told["cuBLASLt BIAS of float32"].values()) == {"no"}
    assert set(told["cuBLASLt RELU_BIAS of tf32"].values()) == {"1.00 µs"}
    chosen = told["cuBLASLt RELU_BIAS of tf32: the algorithm advised"]
    assert set(chosen.values()) == {"1.00 µs, the best 1.00 (number 1 of 3)"}
    assert told["cuBLASLt keeps nan, of float64"] is True
    assert told["padding to 16 of tf32"] == {
        "16 x 8 x 3": "1.00 µs, filled up 1.00 µs, through padded copies 1.00 µs"
    }
    assert len(told) >= 12
    for name, value in asked.items():
        assert all(said.endswith(", as NumPy") for said in told[name].values())
        assert all(said.endswith(", NOT as NumPy") for said in value.values())
    assert set(found["graph and eager"].values()) == {"the same bits"}
    work = found["16-32-4, batch 32, tf32"]
    assert (work["launches a step"], work["launches for many steps"]) == (1, "1 for 16")
    assert work["one after the other, a step of many"] < work["kernels and products a step"]
    assert "many steps a launch, in one branch, µs" in work
    assert work["kernels and products a step"] > work["calls a step"]


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_what_is_switched_on_for_one_fact_is_off_for_the_next(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 in CuPy's products; a capture that CuPy refuses half way."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    fake_cupy, device = importlib.import_module("backend.fake_cupy"), importlib.import_module("device")
    with fake_cupy.installed(monkeypatch) as fake:
        backend = CupyBackend()
        products = dict(device._products(backend, Instant(backend), True))
        assert set(products["tf32 product 64 x 64 x 64"]()) == {"µs", "TFLOP/s"}
        assert fake.compute_types == [("float32", 7), ("float32", 1)]
        fake.RawKernel = lambda *_: lambda *_: None
        launches = dict(device._launches(fake))
        with pytest.raises(NotImplementedError, match="during stream capture"):
            launches["capture of CuPy's matmul"]()
        assert not any(stream.is_capturing() for stream in fake.streams)


def test_every_test_of_a_device_is_among_the_chosen(gpu: ModuleType) -> None:
    """What is marked, or asks for the backends of which one is marked; and none of it needs a package for tests."""
    parts = importlib.import_module("parts")
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__) and re.search(r"mark\.gpu|\(kernels: Backend|, kernels: Backend", path.read_text())
    }
    assert marked == set(parts.TESTS)
    for name in parts.TESTS:
        assert not re.search(r"^(?:import|from) (?:hypothesis|ml_dtypes|torch)", (ROOT / name).read_text(), re.M)


def test_without_the_packages_of_configurations_there_is_less(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compares and times kernels needs none of them, not even to be imported."""
    code = "import sys, parts; sys.exit('pydantic' in sys.modules)"
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0
    parts = importlib.import_module("parts")
    monkeypatch.setattr(parts, "CONFIG", ("no_such_package",))
    for part in (parts.training, parts.steps, parts.tests, parts.peers):
        with pytest.raises(parts.NotHereError, match="not installed: no_such_package"):
            part(parts.Task("numpy", True, lambda found: None))


def test_a_workload_that_fails_stops_no_other(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, steps = importlib.import_module("parts"), importlib.import_module("steps")
    monkeypatch.setattr(steps, "measure", lambda *_: 1 / 0)
    monkeypatch.setattr(steps, "same_bits", lambda *_: {"eager": "the same bits"})
    monkeypatch.setattr(steps, "times_of_recipe", lambda *_: {})
    found = parts.steps(parts.Task("numpy", True, lambda found: None))
    assert found["workloads"]["graph and eager"] == {"eager": "the same bits"}
    wrong = {
        f"16-32-4, batch 32, {each}, failed": "ZeroDivisionError: division by zero" for each in ("bf16", "float32")
    }
    assert found["wrong"] == wrong


def test_a_configuration_that_fails_stops_no_other(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = importlib.import_module("parts")

    def trained(recipe: Any, *_: object) -> tuple[list[float], float]:
        if recipe.config == "iris" and not recipe.changes:
            raise BackendError("no memory left")
        return [1.0, 0.5], 0.1

    monkeypatch.setattr(parts, "_trained", trained)
    found = parts.training(parts.Task("numpy", False, lambda found: None))
    assert found["wrong"] == {"iris": "BackendError: no memory left"}
    assert len(found["runs"]) > 5


def test_tests_that_fail_are_told_as_they_do(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts, kept = importlib.import_module("parts"), list[dict[str, Any]]()
    test = "import pytest\n\n\n@pytest.mark.gpu\n@pytest.mark.parametrize('n', [0, 1])\ndef test_it(n): assert n\n"
    (tmp_path / "test_it.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    monkeypatch.setattr(parts, "TESTS", ("test_it.py",))
    found = parts.tests(parts.Task("cupy", False, kept.append))
    assert kept == [{"summary": "not finished", "wrong": {"test_it.py::test_it[0]": "failed"}}]
    assert "1 failed, 1 passed" in found["summary"]
    assert set(found["wrong"]) == {"test_it.py::test_it[0]", "pytest"}


def test_the_longest_steps_come_last(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    fake_cupy, steps = importlib.import_module("backend.fake_cupy"), importlib.import_module("steps")
    monkeypatch.setattr(steps, "measure", lambda *_: {})
    for name in ("same_bits", "times_of_recipe"):
        monkeypatch.setattr(steps, name, lambda *_: {})
    monkeypatch.setattr(steps, "WORKLOADS", {"small": None, "large": None})
    with fake_cupy.installed(monkeypatch):
        names = [name for name, _ in steps.examine("cupy") if not name.endswith("bf16")]
    first = names.index("small, tf32")
    assert names[first:] == ["small, tf32", "small, float32", "large, tf32", "large, float32"]
    assert set(steps.IN_GRAPHS) < set(names[:first])


def test_long_steps_are_not_timed_longer_than_they_need(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = importlib.import_module("steps")
    now, made = [0.0], []

    def way() -> None:
        now[0] += 0.5
        made.append(now[0])

    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    own = SimpleNamespace(backend=SimpleNamespace(synchronize=lambda: None), batches=4, captured=lambda: None)
    assert steps._timed(own, way, 1, 200) == (0.5, 0.5)
    assert len(made) == 6 * 4


def test_jax_computes_in_the_precision_of_the_others(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("peers")
    for name in ("JAX_PLATFORMS", "JAX_DEFAULT_MATMUL_PRECISION"):
        monkeypatch.setenv(name, "none")
    peers._set_up_jax("gpu")
    assert os.environ["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
