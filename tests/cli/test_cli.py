from __future__ import annotations

import csv
import gc
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from command import run
from rich.console import Console

import gpumlp
from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.host.builder import compiler
from gpumlp.cli import display, main
from gpumlp.cli.display import duration, number
from gpumlp.cli.escaped import EscapedConsole
from gpumlp.cli.interrupt import importing
from gpumlp.limits import gigabytes
from gpumlp.runs import Listener

ROOT = Path(__file__).parents[2]
CANCER = str(ROOT / "configs" / "breast_cancer.yaml")
SHORT = ("--set", "training.epochs=3", "--set", "training.early_stopping=null")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "cancer"
    run("train", CANCER, "--run-dir", str(folder), "--quiet")
    return str(folder)


def test_help_shows_every_verb_and_every_option_is_explained() -> None:
    text = run("--help").stdout
    for name, command in main.commands.items():
        assert f"  {name} " in text
        assert all(getattr(option, "help", None) for option in command.params if option.param_type_name == "option")
        assert command.help
    assert run("train", "-h").stdout.startswith("Usage:")


def test_no_arguments_show_the_help() -> None:
    assert "Commands:" in run(code=2).output


def test_version() -> None:
    assert run("--version").stdout == f"gpumlp, version {gpumlp.__version__}\n"
    assert metadata.version("gpumlp") == gpumlp.__version__


def test_a_wrong_verb_or_option_is_answered_with_the_nearest() -> None:
    assert "train" in run("trian", code=2).stderr
    assert "--quiet" in run("train", CANCER, "--quite", code=2).stderr


def test_the_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "gpumlp", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("gpumlp, version")


def test_train_ends_with_a_table_the_folder_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", CANCER, *SHORT)
    assert "accuracy" in result.stdout
    assert "test" in result.stdout
    assert "run folder  runs/breast_cancer" in result.stdout
    assert "gpumlp predict runs/breast_cancer" in result.stdout
    assert "epoch 1/3" in result.stderr
    assert "epoch 3/3" in result.stderr
    assert "399 training rows, 85 validation, 85 test" in result.stderr
    assert (tmp_path / "runs/breast_cancer/summary.json").exists()
    # A second run goes beside the first.
    assert "run folder  runs/breast_cancer-2" in run("train", CANCER, *SHORT).stdout
    assert "run folder  runs/breast_cancer-2" in run("train", CANCER, *SHORT, "--force").stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["breast_cancer", "breast_cancer-2"]


def test_compiling_kernels_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("GPUMLP_CACHE", str(tmp_path / "cache"))
    first = run("train", CANCER, *SHORT, "--run-dir", str(tmp_path / "a"), "--backend", "native")
    assert first.stderr.count("note: compiling kernels for this processor, once") == 1
    assert "on native" in first.stdout
    again = run("train", CANCER, *SHORT, "--run-dir", str(tmp_path / "b"), "--backend", "native")
    assert "compiling" not in again.stderr


def test_quiet_is_quiet_and_json_is_json(tmp_path: Path) -> None:
    result = run("train", CANCER, *SHORT, "--run-dir", str(tmp_path / "r"), "--quiet", "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["epochs"] == 3


def test_exit_codes_and_one_message(tmp_path: Path) -> None:
    missing = run("train", str(tmp_path / "no.yaml"), code=2)
    assert missing.stderr.startswith("error: ")
    assert "no such file" in missing.stderr
    wrong = run("train", CANCER, "--set", "optimizer.learning_rat=1", "--set", "training.epochs=0", code=2)
    assert "learning_rate" in wrong.stderr
    assert "training.epochs" in wrong.stderr  # both problems at once
    assert "Traceback" not in wrong.stderr
    data = run("train", CANCER, "--set", "data.target=targte", "--run-dir", str(tmp_path / "r"), code=3)
    assert "did you mean 'target'" in data.stderr
    other = run("train", CANCER, "--set", "precision=fp16", "--run-dir", str(tmp_path / "r"), code=2)
    assert "did you mean 'bf16'?" in other.stderr
    assert run("train", CANCER, "--resume", "--force", code=2).stderr
    assert not (tmp_path / "r").exists()


def test_a_device_that_is_not_there_is_one_message(trained: str, tmp_path: Path) -> None:
    result = run("train", CANCER, "--backend", "native", "--device", "1", "--run-dir", str(tmp_path / "r"), code=1)
    assert (
        result.stderr == "error: device: native computes on the CPU: there is no device 1\n  choose backend: cupy\n"
    )
    assert not (tmp_path / "r").exists()
    if not CupyBackend.is_installed():
        for verb in (
            ("evaluate", trained),
            ("predict", trained, str(ROOT / "data/breast_cancer.csv")),
            ("bench", "kernels"),
        ):
            result = run(*verb, "--device", "1", code=1)
            said = "error: backend cupy: device 1 asks for a GPU: CuPy is not installed\n  pip install"
            assert result.stderr.startswith(said)
    assert "--device" in run("train", CANCER, "--device", "-1", code=2).stderr


def test_an_existing_run_is_not_overwritten(trained: str) -> None:
    assert "there is already a run in this folder" in run("train", CANCER, "--run-dir", trained, code=1).stderr


def test_interrupting_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path / "a run")  # a name that a shell would split

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpumlp.cli.display.Announcer.epoch", interrupt)
        early = run("train", CANCER, *SHORT, "--run-dir", folder, code=130)
        assert early.stderr.splitlines()[-1] == "error: interrupted"  # there is no checkpoint yet
        patch.setattr("gpumlp.runs.run.CHECKPOINT_SECONDS", 0.0)
        result = run("train", CANCER, *SHORT, "--run-dir", folder, "--force", code=130)
    command = shlex.split(result.stderr.splitlines()[-1].split(": ")[-1])
    assert command[:2] == ["gpumlp", "train"]
    assert "accuracy" in run(*command[1:]).stdout


def test_a_run_is_no_configuration(trained: str, tmp_path: Path) -> None:
    for verb in ("train", "validate"):
        message = run(verb, trained, code=2).stderr
        said = f"{trained}: this is a run folder, not a configuration\n  its settings are {trained}/config.yaml\n"
        assert message == f"error: {said}"
    run("validate", f"{trained}/config.yaml")
    half = tmp_path / "half"
    shutil.copytree(trained, half, ignore=shutil.ignore_patterns("summary.json"))
    command = shlex.split(run("train", str(half), code=2).stderr.splitlines()[-1].split(": ")[-1])
    assert command[0] == "gpumlp"
    assert "run folder" in run(*command[1:]).stdout


IMPORT = """
import os, signal, sys
from gpumlp.cli import main
class Finder:
    def find_spec(self, name, *_):
        if name == "gpumlp.cli.verbs":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
main(["schema"])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are others there")
def test_ctrl_c_while_a_verb_is_imported_is_no_exception() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


EARLY = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import gpumlp.cli
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are others there")
def test_ctrl_c_before_there_is_a_command_is_no_exception() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_imported_modules_are_never_searched_for_garbage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some_module.py").write_text(
        "import gc\ncollects = gc.isenabled()\nstays = [[] for _ in range(1000)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.get_freeze_count()
    with importing():
        import some_module  # type: ignore[import-not-found]
    assert not some_module.collects
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + 1000

    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    with importing():
        import some_module
    assert len(kept) > gc.get_freeze_count() - before  # nothing new was imported
    del sys.modules["some_module"]
    gc.unfreeze()


@pytest.mark.skipif(os.name != "posix", reason="a working folder cannot be deleted there")
def test_a_working_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(main, "invoke", lambda ctx: Path.cwd())
    (tmp_path / "gone").rmdir()
    result = run("doctor", code=1)
    assert result.stderr == "error: the working folder: No such file or directory\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["doctor"], ["schema"], ["--version"]])
def test_a_full_disk_is_one_message_whatever_is_written(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "gpumlp", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: output: No space left on device\n")


def test_evaluate_repeats_the_summary(trained: str) -> None:
    summary = json.loads((Path(trained) / "summary.json").read_text())
    metrics = json.loads(run("evaluate", trained, "--json").stdout)
    assert metrics == summary["metrics"]
    assert "AUC" in run("evaluate", trained).stdout


def test_no_digit_is_lost_on_a_narrow_terminal(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = run("evaluate", trained).stdout
    monkeypatch.setattr(display, "stdout", screen_of(Console(width=20)))
    assert run("evaluate", trained).stdout == wide


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.00317, "0.0032 s"), (0.0874, "0.087 s"), (0.996, "1 s"), (1.04, "1.0 s"), (1234.56, "1234.6 s")],
)
def test_a_short_time_is_not_told_as_none(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_folder_that_is_not_there_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpumlp.cli.bench.bench", lambda *_: 1 / 0)
    for words, ending in ((("graph", CANCER, "-o"), "svg"), (("bench", "kernels", "--plot"), "png")):
        said = run(*words, f"pictures/a.{ending}", code=1).stderr
        missing = "cannot be written: there is no folder 'pictures'\n  create it first\n"
        assert said == f"error: pictures/a.{ending}: {missing}"
        folder = tmp_path / f"a.{ending}"
        folder.mkdir()
        said = run(*words, str(folder), "--force", code=1).stderr
        assert said == f"error: {folder}: cannot be written: this is a folder\n  pass the name of a file in it\n"


def test_what_is_no_run_is_not_drawn() -> None:
    assert f"error: {CANCER}: not a run folder\n" in run("plot", CANCER, code=1).stderr


def test_a_letter_that_the_terminal_does_not_have_is_escaped(trained: str) -> None:
    command = [sys.executable, "-m", "gpumlp", "inspect", trained]
    variables = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
    assert "\\u2500" in done.stdout
    assert "accuracy" in done.stdout


def test_evaluate_has_points_of_curves(trained: str) -> None:
    measured = json.loads(run("evaluate", trained, "--curves").stdout)
    file = str(ROOT / "data/breast_cancer.csv")
    measured |= json.loads(run("evaluate", trained, "--curves", "--data", file).stdout)
    assert list(measured) == ["train", "validation", "test", "breast_cancer.csv"]
    for part in measured.values():
        points = part["curves"]["malignant"][50]
        assert {key: points[key] for key in ("threshold", "precision", "recall")} == {
            "threshold": 0.5,
            "precision": pytest.approx(part["precision"]),
            "recall": pytest.approx(part["recall"]),
        }
    assert gpumlp.load_trained(trained).curves(file) == measured["breast_cancer.csv"]["curves"]


def test_evaluate_a_file(trained: str) -> None:
    metrics = json.loads(run("evaluate", trained, "--data", str(ROOT / "data/breast_cancer.csv"), "--json").stdout)
    assert metrics["breast_cancer.csv"]["accuracy"] > 0.96


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_predict_from_a_file_and_from_the_terminal(trained: str, tmp_path: Path) -> None:
    lines = (ROOT / "data/breast_cancer.csv").read_text().splitlines()
    rows = "\n".join(lines[:6]) + "\n"
    (tmp_path / "new.csv").write_text(rows)
    from_file = run("predict", trained, str(tmp_path / "new.csv")).stdout
    assert from_file == run("predict", trained, "-", stdin=rows).stdout
    header, *found = table(from_file)
    assert header == ["prediction"]
    assert [row[0] for row in found] == [line.rsplit(",", 1)[1] for line in lines[1:6]]

    out = tmp_path / "out.csv"
    result = run("predict", trained, str(tmp_path / "new.csv"), "--proba", "-o", str(out))
    assert result.stdout == ""
    assert "5 predictions" in result.stderr
    header, *found = table(out.read_text())
    assert header == ["prediction", "probability benign", "probability malignant"]
    for name, benign, malignant in found:
        assert float(benign) + float(malignant) == pytest.approx(1.0, abs=1e-6)
        assert name == ("malignant" if float(malignant) > 0.5 else "benign")


def test_predict_replaces_no_file_unasked(trained: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("".join((ROOT / "data/breast_cancer.csv").read_text().splitlines(keepends=True)[:3]))
    before = rows.read_text()
    assert (
        "the output file is the input file"
        in run("predict", trained, str(rows), "-o", str(rows), "--force", code=2).stderr
    )
    assert rows.read_text() == before
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert "--force" in run("predict", trained, str(rows), "-o", str(out), code=1).stderr
    assert out.read_text() == "mine"
    (tmp_path / "link.csv").symlink_to(out)
    run("predict", trained, str(rows), "-o", str(tmp_path / "link.csv"), "--force")
    assert (tmp_path / "link.csv").is_symlink()
    assert out.read_text().startswith("prediction\n")
    run("predict", trained, str(rows), "-o", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_what_the_system_refuses_is_one_message(trained: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        message = run("train", CANCER, *SHORT, "--run-dir", str(folder), code=1).stderr
        assert message.count("error: ") == 1
    assert "cannot be written" in run("predict", trained, CANCER.replace("configs", "data").replace("yaml", "csv"),
                                      "-o", str(tmp_path / "no" / "x.csv"), code=1).stderr  # fmt: skip


def test_a_network_beyond_memory_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = ("--set", "model.hidden=[1000000000, 1000000000]")  # no machine hands out so much
    train = ("train", CANCER, *huge, "--run-dir", str(tmp_path / "run"))
    count = (30 + 1) * 10**9 + (10**9 + 1) * 10**9 + 10**9 + 1
    message = run(*train, code=2).stderr
    assert (
        f"a network of {count:,} parameters needs at least {gigabytes(20 * count)} of memory to train with adam"
        in message
    )
    assert message.splitlines()[0].endswith(f"this machine has {gigabytes(Backend().memory or 0)}")
    count = 2 * 10**9 + (10**9 + 1) * 10**9 + 10**9 + 1
    assert f"a network of at least {count:,} parameters" in run("validate", CANCER, *huge, code=2).stderr
    monkeypatch.setattr("gpumlp.backend.base.host_memory", lambda: None)  # a system that does not tell
    assert run(*train, code=1).stderr.startswith("error: out of memory")
    assert not (tmp_path / "run").exists()


def test_inspect_warns_of_a_last_batch_of_one_row() -> None:
    rows = ("--set", "training.batch_size=199", "--set", "model.norm=batch")  # 399 = 2 · 199 + 1
    assert "note: each epoch ends with a batch of 1 row (399" in run("inspect", CANCER, *rows).stderr


def test_a_number_that_is_none_is_null_in_json(trained: str, tmp_path: Path) -> None:
    lines = (ROOT / "data/breast_cancer.csv").read_text().splitlines(keepends=True)
    (tmp_path / "one.csv").write_text("".join(lines[:3]))  # both rows malignant: no AUC
    text = run("evaluate", trained, "--data", str(tmp_path / "one.csv"), "--json").stdout
    assert json.loads(text, parse_constant=pytest.fail)["one.csv"]["auc"] is None
    assert "–" in run("evaluate", trained, "--data", str(tmp_path / "one.csv")).stdout


def test_predict_names_a_missing_column(trained: str, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('mean radius,mean textur,"area, worst"\n1,2,3\n')
    message = run("predict", trained, str(tmp_path / "new.csv"), code=3).stderr
    assert "mean texture" in message
    assert "allowed: mean radius, mean textur, 'area, worst'" in message  # three columns, not four


def test_predict_tells_of_what_is_new(tmp_path: Path) -> None:
    """Another column and an unseen category are remarks; a missing column is an error, and no file is written."""
    lines = [f"{i % 7},{'red' if i % 7 > 3 else 'blue'},{'yes' if i % 7 > 3 else 'no'}" for i in range(70)]
    (tmp_path / "t.csv").write_text("\n".join(["size,colour,target", *lines]) + "\n")
    (tmp_path / "t.yaml").write_text("task: classification\ndata: {train: t.csv, target: target}\n")
    folder, out = str(tmp_path / "r"), tmp_path / "out.csv"
    run("train", str(tmp_path / "t.yaml"), *SHORT, "--run-dir", folder, "-q")
    (tmp_path / "new.csv").write_text("colour,price,size\nred,9,1\ngreen,9,2\n")
    result = run("predict", folder, str(tmp_path / "new.csv"))
    assert "not used, because not in the training data: 'price'" in result.stderr
    assert "column 'colour': 1 row has a value not seen in training, such as 'green'" in result.stderr
    assert len(table(result.stdout)) == 1 + 2
    (tmp_path / "short.csv").write_text("colour,price\nred,9\n")
    message = run("predict", folder, str(tmp_path / "short.csv"), "-o", str(out), code=3).stderr
    assert message.count("error: ") == 1
    assert "there is no column 'size', which the model was trained on" in message
    assert not out.exists()


def test_a_run_that_came_apart(tmp_path: Path) -> None:
    folder = str(tmp_path / "r")
    hot = ("--set", "optimizer={name: sgd, learning_rate: 1e30}", "--set", "model.activation=relu")
    assert "try a lower optimizer.learning_rate" in run("train", CANCER, *hot, "--run-dir", folder, code=1).stderr
    for verb in (("evaluate", folder), ("inspect", folder), ("predict", folder, "-")):
        message = run(*verb, code=1).stderr
        assert "no epoch before it was usable" in message
        assert "--resume" not in message
    assert (
        "resuming would diverge again" in run("train", CANCER, *hot, "--run-dir", folder, "--resume", code=1).stderr
    )


def test_a_damaged_checkpoint_is_a_warning_even_when_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    steps = (*SHORT, "--set", "training.checkpoint_every=5", "--run-dir", str(folder), "-q")
    run("train", CANCER, *steps)
    (folder / "summary.json").unlink()
    last = max((folder / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:100])
    told = run("train", CANCER, *steps, "--resume").stderr.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"warning: {last}: ")


def test_a_configuration_of_a_later_version(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("version: 99\nfuture: true\n")
    message = run("train", str(tmp_path / "t.yaml"), "--run-dir", str(tmp_path / "r"), code=2).stderr
    assert "update gpumlp" in message
    assert "future" not in message
    assert not (tmp_path / "r").exists()


def test_predict_numbers(tmp_path: Path) -> None:
    folder = str(tmp_path / "r")
    run("train", str(ROOT / "configs/diabetes.yaml"), *SHORT, "--run-dir", folder, "-q")
    header, *found = table(run("predict", folder, str(ROOT / "data/diabetes.csv")).stdout)
    assert header == ["prediction"]
    assert len(found) == 442
    assert all(0 < float(row[0]) < 400 for row in found)  # in the units of the target
    run("predict", folder, str(ROOT / "data/diabetes.csv"), "--proba", code=2)


def test_inspect_counts_parameters(trained: str) -> None:
    for what in (trained, CANCER):
        text = run("inspect", what).stdout
        assert f"{(30 + 1) * 32 + (32 + 1) * 16 + (16 + 1):,}" in text
        assert "dense_3 (Dense, sigmoid)" in text
    assert "3,200 steps" not in text


def test_validate(tmp_path: Path) -> None:
    assert "no problems" in run("validate", CANCER).stdout
    text = run("validate", CANCER, "--print-config", "--set", "training.seed=7").stdout
    (tmp_path / "all.yaml").write_text(text)
    assert "seed: 7" in text
    run("validate", str(tmp_path / "all.yaml"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_is_for_gpumlp(shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_GPUMLP_COMPLETE={shell}_complete" in script
    assert run("completion", "tcsh", code=2).stderr


def test_the_shell_is_told_which_verbs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "gpumlp com")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_GPUMLP_COMPLETE", "bash_complete")
    told = subprocess.run([sys.executable, "-m", "gpumlp"], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["plain,compare", "plain,completion"]


def test_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["properties"]["task"]


def test_doctor_finds_what_there_is() -> None:
    text = run("doctor").stdout
    for word in ("gpumlp", "python", "numpy", "BLAS", "kernel files", "backends"):
        assert word in text


def test_the_listener_of_the_command_line_overrides_what_exists() -> None:
    from gpumlp.cli.display import Announcer

    own = {name for name in vars(Announcer) if not name.startswith("_")}
    assert {name for name in vars(Listener) if not name.startswith("_")} <= own


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_names_of_any_language_in_a_locale_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "таблица ß.csv").write_text("a,y\n1,x\n2,z\n", encoding="utf-8")
    text = "task: classification\ndata: {train: таблица ß.csv, target: y}\n"
    (tmp_path / "конфиг.yaml").write_text(text, encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "gpumlp", "validate", str(tmp_path / "конфиг.yaml")]
    result = subprocess.run(command, env={**os.environ, **plain}, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "конфиг.yaml: no problems" in result.stdout.decode()


def test_an_option_that_is_a_setting_is_answered_with_set() -> None:
    for option, setting in (("--epochs", "training.epochs"), ("--lr", "optimizer.learning_rate")):
        stderr = run("train", CANCER, option, "3", code=2).stderr
        assert stderr.endswith(f"Error: No such option '{option}'; use --set {setting}=VALUE\n")
    assert "--set" not in run("evaluate", "runs/x", "--epochs", "3", code=2).stderr
    assert "--zzz" in run("train", CANCER, "--zzz", code=2).stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0000"),
        (0.61234, "0.6123"),
        (512.34567, "512.3457"),
        (51_360.4, "51,360"),
        (1e-5, "1e-05"),
    ],
)
def test_numbers_of_tables(value: float | None, text: str) -> None:
    assert number(value) == text


def screen_of(console: Console) -> display.Screen:
    """Return a screen that a console draws on."""
    screen = display.Screen()
    screen.console = console
    return screen


def test_the_progress_line_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for width, fits in ((76, True), (80, True), (75, False)):
        screen = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
        monkeypatch.setattr(display, "stderr", screen_of(screen))
        announcer = display.Announcer()
        assert announcer.live == fits
        if fits:
            row = {"train_loss": 0.1, "validation_loss": 0.2, "validation_accuracy": 0.9}
            line = display.epoch_line(row, short=announcer._short)
            assert announcer.progress is not None
            announcer._update(total=1000, completed=1000, line=line)
            with screen.capture() as capture:
                screen.print(announcer.progress.get_renderable())
            text = capture.get()
            assert text.count("\n") == 1
            assert "epoch 1000/1000" in text
            assert "val accuracy 0.9000" in text
            assert re.search(r"\d:\d\d:\d\d|-:--:--", text)


@pytest.mark.parametrize(
    ("is_terminal", "whole", "lines"),
    [
        (True, False, ["one two", "three", "0123456789012", "four"]),
        (True, True, ["one two three 0123456789012 four"]),
        (False, False, ["one two three 0123456789012 four"]),
    ],
)
def test_text_on_a_terminal_is_wrapped_between_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
    whole: bool,
    lines: list[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if is_terminal else "")
    monkeypatch.setattr(display, "stdout", screen_of(EscapedConsole(width=8)))
    display.tell(" ".join(lines), whole=whole)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == lines


@pytest.mark.parametrize("forced", ["", "1"])
def test_texts_are_printed_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forced: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    monkeypatch.setenv("NO_COLOR", "1")
    display.say("column 'a:b:c' [bold]\x1b[1m", style="dim")
    assert re.sub(r"\x1b\[2?0?m", "", capsys.readouterr().err) == "column 'a:b:c' [bold]\\x1b[1m\n"
    monkeypatch.setattr(sys, "stderr", None)  # as Python leaves it where the stream is closed
    display.say("nobody reads this")
    assert not display.stderr.is_terminal


def test_errors_and_pages_are_wrapped_and_commands_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "  train it again: gpumlp train runs/with-a-long-name/config.yaml --run-dir runs/with-a-long-name"
    message = f"{'word ' * 30}end\n  {'hint ' * 30}end\n{command}"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(display, "stderr", screen_of(Console(width=40)))
    main.show_error(message)
    printed = re.sub(r"\x1b\[\d+m", "", sys.stderr.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 40 for line in printed[:-1])
    assert sum(line.startswith("  hint") for line in printed) > 1
    assert printed[-1] == command
    assert " ".join(" ".join(printed).split()) == " ".join(f"error: {message}".split())
    assert display.wrapped("name  one two three", 12, 6) == "name  one\n      two\n      three"
