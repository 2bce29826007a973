# SPDX-License-Identifier: Apache-2.0
"""start.py without a network: stamps, what it looks for and where, command lines, and its one-sentence refusals."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import start
from launch import comfyui, environment, programs
from tests import setup

ROOT = Path(start.__file__).resolve().parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and links as POSIX has them")

NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by
'NewConnectionError('<HTTPSConnection>: Failed to establish a new connection: [Errno -3]')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)
ERROR: No matching distribution found for torch==2.11.0
"""
NO_WHEEL = """\
ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: 2.0.0, 2.1.0, 2.2.2)
ERROR: No matching distribution found for torch==2.11.0
"""


@pytest.fixture
def env(tmp_path: Path) -> environment.Environment:
    folder = tmp_path / "env"
    folder.mkdir()
    return environment.Environment(folder)


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch):
    """Replaces pip: `answers` are what it returns in turn, `calls` what it was asked for."""

    class Calls:
        calls: list[list[str]] = []  # noqa: RUF012 (one object a test)
        answers: list[tuple[int, str]] = []  # noqa: RUF012

        def __call__(self, env, arguments, label, logs):
            self.calls.append(list(arguments))
            return self.answers.pop(0) if self.answers else (0, "")

    fake = Calls()
    fake.calls, fake.answers = [], []
    monkeypatch.setattr(environment, "pip", fake)
    return fake


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and "Traceback" not in text


# --- start.py itself --------------------------------------------------------------------------------------------------


BARE = ("start.py", "tests/setup.py", *sorted(f"launch/{path.name}" for path in (ROOT / "launch").glob("*.py")))
"""What runs on a Python that has nothing but itself."""


@pytest.mark.parametrize("name", BARE)
def test_start_imports_nothing_but_the_standard_library_and_itself(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "launch"}


@pytest.mark.parametrize("name", BARE)
def test_an_old_python_can_read_start_far_enough_to_be_told(name):
    assert ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 8)).body


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 8, 0)])
def test_an_old_python_is_refused_with_a_sentence(version, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", version)
    assert start.main(["--help"]) == 1
    assert "needs Python 3.10 or newer" in capsys.readouterr().err


def test_help_needs_no_environment(tmp_path):
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "start.py", "--help"],
        env={**os.environ, "HERO_FEEDBACK_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(word in done.stdout for word in ("rate", "comfyui", "test", "HERO_FEEDBACK_HOME"))
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["paint"], {}, "no command 'paint'"),
        (["comfyui"], {"COMFYUI_PATH": "{tmp}"}, "holds no main.py"),
        (["comfyui", "--port", "many"], {}, "--port is 'many'"),
        (["check", "spelling"], {}, "not 'spelling'"),
        (["rate"], {"HERO_FEEDBACK_HOME": "{tmp}/file/below"}, "HERO_FEEDBACK_HOME"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(arguments, variables, says, tmp_path):
    (tmp_path / "file").write_text("")
    told = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
    done = subprocess.run(
        [sys.executable, ROOT / "start.py", *arguments],
        env={**os.environ, "HERO_FEEDBACK_HOME": str(tmp_path / "home"), **told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert is_one_sentence(done.stderr.strip().removeprefix("start.py: "))


@pytest.mark.parametrize(
    ("arguments", "command", "rest"),
    [
        ([], "demo", []),
        (["--rounds", "2"], "demo", ["--rounds", "2"]),
        (["demo", "--out", "x"], "demo", ["--out", "x"]),
        (["rate", "--port", "9000"], "rate", ["--port", "9000"]),
        (["test", "--long", "-k", "x"], "test", ["--long", "-k", "x"]),
    ],
)
def test_words_choose_the_command_and_options_pass_through(arguments, command, rest, monkeypatch):
    asked = []
    for name in start.COMMANDS:
        monkeypatch.setitem(start.COMMANDS, name, lambda words, name=name: asked.append((name, list(words))) or 0)
    monkeypatch.setattr(start, "command_demo", start.COMMANDS["demo"])
    assert start.main(arguments) == 0
    assert asked == [(command, rest)]


# --- Layers and stamps ------------------------------------------------------------------------------------------------


def test_a_stamp_changes_with_the_packages_the_python_and_the_files_content(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("numpy\n")
    digests = [
        environment.Layer("core", "", ("torch",)).digest("3.11"),
        environment.Layer("core", "", ("torch", "numpy")).digest("3.11"),
        environment.Layer("core", "", ("torch",)).digest("3.12"),
        environment.Layer("core", "", ("torch",), file).digest("3.11"),
    ]
    file.write_text("numpy>=2\n")
    digests.append(environment.Layer("core", "", ("torch",), file).digest("3.11"))
    assert len(set(digests)) == 5
    assert environment.Layer("core", "other words", ("torch",)).digest("3.11") == digests[0]


def test_a_layer_is_installed_once(env, pip_calls, tmp_path):
    for _ in range(2):
        environment.install(env, environment.CORE_LAYER, environment.CORE_LAYER.digest("3.11"), tmp_path)
    assert pip_calls.calls == [list(environment.CORE)]
    environment.install(env, environment.CORE_LAYER, environment.CORE_LAYER.digest("3.12"), tmp_path)
    assert len(pip_calls.calls) == 2


def test_a_failed_install_leaves_no_stamp(env, pip_calls, tmp_path):
    pip_calls.answers = [(1, "ERROR: the moon is full")]
    with pytest.raises(programs.CannotStart, match="the moon is full"):
        environment.install(env, environment.CORE_LAYER, "digest", tmp_path)
    assert not env.has("core", "digest")


def test_torch_that_is_not_built_for_this_machine_falls_back_to_the_newest(env, pip_calls, tmp_path, capsys):
    pip_calls.answers = [(1, NO_WHEEL), (0, "")]
    environment.install(env, environment.CORE_LAYER, "digest", tmp_path)
    assert pip_calls.calls[0][0] == "torch==2.11.0"
    assert pip_calls.calls[1] == ["torch", *environment.CORE[1:]]
    assert "no torch==2.11.0 for this machine" in capsys.readouterr().out
    assert env.has("core", "digest")


def test_no_network_is_not_mistaken_for_a_missing_build(env, pip_calls, tmp_path):
    pip_calls.answers = [(1, NO_NETWORK), (0, "")]
    with pytest.raises(programs.CannotStart, match="package index cannot be reached"):
        environment.install(env, environment.CORE_LAYER, "digest", tmp_path)
    assert len(pip_calls.calls) == 1


def test_torch_and_its_companions_are_of_one_release_in_every_layer(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch\n")
    layer = environment.comfyui_layer(tmp_path)
    assert layer.arguments() == [*environment.TORCH_TRIO, "-r", str(tmp_path / "requirements.txt")]
    assert layer.arguments(pinned=False)[:3] == ["torch", "torchvision", "torchaudio"]
    assert environment.CORE[0] == environment.TORCH_TRIO[0]


def test_the_environments_folder_names_the_python(tmp_path):
    name = f"env-py{sys.version_info.major}{sys.version_info.minor}"
    assert environment.environment(tmp_path).folder == tmp_path / name


def test_an_environment_made_by_hand_is_adopted_and_a_broken_one_made_anew(tmp_path, monkeypatch):
    asked = []

    def capture(command, env=None):
        asked.append([str(word) for word in command])
        return (1 if "--version" in asked[-1] and broken else 0), ""

    monkeypatch.setattr(environment, "capture", capture)
    for broken, expected in ((False, ["pip"]), (True, ["pip", "venv"])):
        env = environment.Environment(tmp_path / str(broken))
        env.python.parent.mkdir(parents=True)
        env.python.touch()
        asked.clear()
        environment.make(env)
        environment.make(env)  # the second time there is nothing to ask
        assert [words[2] for words in asked] == expected


def test_a_second_start_runs_no_program(tmp_path, pip_calls, monkeypatch):
    env, asked = environment.environment(tmp_path), []

    def make_venv(command, env_=None):
        asked.append(command)
        env.python.parent.mkdir(parents=True)
        env.python.touch()
        return 0, ""

    monkeypatch.setattr(environment, "capture", make_venv)
    for _ in range(2):
        environment.prepare(tmp_path, environment.CORE_LAYER, setup.TEST_LAYER)
        assert (len(asked), len(pip_calls.calls)) == (1, 2)


@POSIX
def test_two_starts_do_not_set_up_at_once(tmp_path):
    path = tmp_path / "lock"
    code = f"from launch import environment; from pathlib import Path\n" \
           f"with environment.one_at_a_time(Path({str(path)!r})): print('in')"  # fmt: skip
    with environment.one_at_a_time(path):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "Another start.py is setting up; waiting for it.\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1.0)
    assert other.communicate()[0] == "in\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Collecting torch==2.11.0", "collecting torch==2.11.0"),
        ("  Downloading torch-2.11.0-cp311.whl (900.1 MB)", "downloading torch-2.11.0-cp311.whl (900.1 MB)"),
        ("Installing collected packages: a, b", "installing"),
        ("Requirement already satisfied: numpy in /x", ""),
        ("", ""),
    ],
)
def test_what_pip_does_is_shown_in_a_few_words(line, shown):
    assert programs.activity(line) == shown


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        (NO_NETWORK, "check the network"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "free about 8 GB"),
        ("ERROR: No matching distribution found for torch", "Python from 3.10 to 3.13"),
        ("Building wheel\nERROR: a compiler is missing\nnote: hint", "a compiler is missing"),
        ("", "it said nothing"),
    ],
)
def test_each_failure_of_pip_has_its_sentence(output, remedy, tmp_path):
    sentence = environment.why_pip_failed(output, "core", tmp_path)
    assert remedy in sentence
    assert is_one_sentence(sentence)


def test_a_python_without_venv_is_told_which_package_to_install():
    sentence = environment.why_no_venv("The environment was not created successfully because ensurepip is not\n")
    assert f"python3.{sys.version_info.minor}-venv" in sentence
    assert is_one_sentence(sentence)


# --- ComfyUI ----------------------------------------------------------------------------------------------------------


def comfyui_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def test_comfyui_is_looked_for_in_its_variable_first_then_at_home(tmp_path):
    named, own = comfyui_in(tmp_path / "named"), comfyui_in(tmp_path / "home" / "ComfyUI")
    assert comfyui.find_comfyui(tmp_path / "home", {"COMFYUI_PATH": str(named)}) == named
    assert comfyui.find_comfyui(tmp_path / "home", {}) == own
    assert comfyui.find_comfyui(tmp_path / "home", {"COMFYUI_PATH": ""}) == own
    assert comfyui.find_comfyui(tmp_path / "elsewhere", {}) is None


def test_a_wrong_comfyui_path_is_refused_and_not_passed_over(tmp_path):
    comfyui_in(tmp_path / "ComfyUI")
    with pytest.raises(programs.CannotStart, match=r"holds no main\.py"):
        comfyui.find_comfyui(tmp_path, {"COMFYUI_PATH": str(tmp_path / "typo")})


def test_without_git_comfyui_must_be_fetched_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(comfyui.shutil, "which", lambda name: None)
    with pytest.raises(programs.CannotStart, match=r"git is not installed: install it, or .*COMFYUI_PATH"):
        comfyui.clone_comfyui(tmp_path)


def test_a_clone_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken_git(command, env=None):
        Path(command[-1]).mkdir()
        (Path(command[-1]) / "main.py").touch()
        return 128, "fatal: unable to access: Could not resolve host"

    monkeypatch.setattr(comfyui.shutil, "which", lambda name: "/usr/bin/git")
    monkeypatch.setattr(comfyui, "capture", broken_git)
    with pytest.raises(programs.CannotStart, match="Could not resolve host"):
        comfyui.clone_comfyui(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert comfyui.find_comfyui(tmp_path, {}) is None


def test_a_clone_is_of_the_pinned_release(tmp_path, monkeypatch):
    asked = []

    def git(command, env=None):
        asked.append([str(word) for word in command])
        comfyui_in(Path(command[-1]))
        return 0, ""

    monkeypatch.setattr(comfyui.shutil, "which", lambda name: "/usr/bin/git")
    monkeypatch.setattr(comfyui, "capture", git)
    assert comfyui.clone_comfyui(tmp_path) == tmp_path / "ComfyUI" == comfyui.find_comfyui(tmp_path, {})
    assert asked[0][:-1] == ["git", "clone", "--quiet", "--depth", "1", "--branch", "v0.33.0", comfyui.COMFYUI_URL]


@pytest.mark.parametrize(
    ("gpu", "extra", "expected"),
    [
        (False, [], ["--port", "8190", "--cpu"]),
        (True, [], ["--port", "8190"]),
        (False, ["--cpu"], ["--port", "8190", "--cpu"]),
        (False, ["--directml"], ["--port", "8190", "--directml"]),
        (True, ["--port", "1"], ["--port", "1"]),
    ],
)
def test_comfyui_runs_on_the_cpu_only_where_it_must(gpu, extra, expected):
    env = environment.Environment(Path("/env"))
    command = comfyui.comfyui_command(env, Path("/comfy"), Path("/base"), 8190, gpu, extra)
    assert command[:4] == [str(env.python), str(Path("/comfy/main.py")), "--base-directory", str(Path("/base"))]
    assert command[4:] == ["--database-url", "sqlite:////base/user/comfyui.db", *expected]


def test_a_taken_port_is_passed_over_or_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert comfyui.choose_port([], first=port) > port
        with pytest.raises(programs.CannotStart, match=f"Port {port} is taken"):
            comfyui.choose_port(["--port", str(port)])
    assert comfyui.choose_port([f"--port={port}"]) == port


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        ([], "127.0.0.1"),
        (["--listen"], "127.0.0.1"),
        (["--listen", "0.0.0.0"], "127.0.0.1"),
        (["--listen", "192.168.0.7,127.0.0.1"], "192.168.0.7"),
    ],
)
def test_the_address_that_is_shown_is_one_that_answers(arguments, host):
    assert comfyui.address_of(arguments) == host


@POSIX
def test_the_pack_is_linked_and_a_stale_link_or_copy_replaced(tmp_path):
    link, other = tmp_path / "hero-feedback", tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").touch()
    link.symlink_to(other)
    comfyui.link_pack(link)
    assert link.resolve() == ROOT
    assert (other / "precious.txt").exists()
    link.unlink()
    (link / "old").mkdir(parents=True)
    comfyui.link_pack(link)
    assert link.is_symlink()
    assert link.resolve() == ROOT
    comfyui.remove_link(link)
    assert (ROOT / "start.py").exists()


@POSIX
def test_a_workflow_that_the_user_has_changed_is_kept(tmp_path, monkeypatch):
    pack = tmp_path / "pack"
    (pack / "examples").mkdir(parents=True)
    (pack / "examples" / "hero_tiny.json").write_text("ours")
    monkeypatch.setattr(comfyui, "ROOT", pack)
    copy = tmp_path / "base" / "user" / "default" / "workflows" / "hero_tiny.json"
    comfyui.prepare_base_directory(tmp_path / "base")
    assert copy.read_text() == "ours"
    copy.write_text("theirs")
    comfyui.prepare_base_directory(tmp_path / "base")
    assert copy.read_text() == "theirs"


# --- Ending -----------------------------------------------------------------------------------------------------------

LONG_CHILD = """
import subprocess, sys, start
from launch import programs
subprocess.Popen.kill = lambda self: print("killed", file=sys.stderr)
child = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(os.getpid(), flush=True); " \\
        "time.sleep(600)"
start.COMMANDS["rate"] = lambda words: programs.run([sys.executable, "-c", child])
sys.exit(start.main(["rate"]))
"""


@POSIX
@pytest.mark.parametrize("how", ["ctrl_c", "terminate"])
def test_a_stop_ends_the_child_and_is_no_traceback(how):
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CHILD],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell starts background jobs with Ctrl+C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    child = int(process.stdout.readline())
    if how == "ctrl_c":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    else:
        process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == "Stopped."
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@POSIX
def test_a_child_that_a_signal_ended_is_a_failure():
    assert programs.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_what_is_started_waits_asleep_unless_the_user_says_otherwise(monkeypatch, capfd):
    show = [sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"]
    for own, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if own:
            monkeypatch.setenv("OMP_WAIT_POLICY", own)
        assert programs.run(show) == 0
        assert capfd.readouterr().out.strip() == expected


def test_hero_core_gpu_is_start_py_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its options as they are, and its exit status."""
    from hero_core import __main__ as program

    asked: list[tuple[str, list[str]]] = []

    def run_path(path: str) -> dict:
        return {"main": lambda words: asked.append((Path(path).name, words)) or 3}

    monkeypatch.setattr(program.runpy, "run_path", run_path)
    assert program.main(["gpu", "--miniature", "--only", "SDXL"]) == 3
    assert asked == [("start.py", ["gpu", "--miniature", "--only", "SDXL"])]
