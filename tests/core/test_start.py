"""start.py without a network: stamps, what it looks for and where, command lines, and its one-sentence refusals."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import start

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
def env(tmp_path: Path) -> start.Environment:
    folder = tmp_path / "env"
    folder.mkdir()
    return start.Environment(folder)


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
    monkeypatch.setattr(start, "pip", fake)
    return fake


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and "Traceback" not in text


# --- start.py itself --------------------------------------------------------------------------------------------------


def test_start_imports_nothing_but_the_standard_library():
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_an_old_python_can_read_start_far_enough_to_be_told():
    ast.parse((ROOT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 8))


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
        start.Layer("core", "", ("torch",)).digest("3.11"),
        start.Layer("core", "", ("torch", "numpy")).digest("3.11"),
        start.Layer("core", "", ("torch",)).digest("3.12"),
        start.Layer("core", "", ("torch",), file).digest("3.11"),
    ]
    file.write_text("numpy>=2\n")
    digests.append(start.Layer("core", "", ("torch",), file).digest("3.11"))
    assert len(set(digests)) == 5
    assert start.Layer("core", "other words", ("torch",)).digest("3.11") == digests[0]


def test_a_layer_is_installed_once(env, pip_calls, tmp_path):
    for _ in range(2):
        start.install(env, start.CORE_LAYER, start.CORE_LAYER.digest("3.11"), tmp_path)
    assert pip_calls.calls == [list(start.CORE)]
    start.install(env, start.CORE_LAYER, start.CORE_LAYER.digest("3.12"), tmp_path)
    assert len(pip_calls.calls) == 2


def test_a_failed_install_leaves_no_stamp(env, pip_calls, tmp_path):
    pip_calls.answers = [(1, "ERROR: the moon is full")]
    with pytest.raises(start.CannotStart, match="the moon is full"):
        start.install(env, start.CORE_LAYER, "digest", tmp_path)
    assert not env.has("core", "digest")


def test_torch_that_is_not_built_for_this_machine_falls_back_to_the_newest(env, pip_calls, tmp_path, capsys):
    pip_calls.answers = [(1, NO_WHEEL), (0, "")]
    start.install(env, start.CORE_LAYER, "digest", tmp_path)
    assert pip_calls.calls[0][0] == "torch==2.11.0"
    assert pip_calls.calls[1] == ["torch", *start.CORE[1:]]
    assert "no torch==2.11.0 for this machine" in capsys.readouterr().out
    assert env.has("core", "digest")


def test_no_network_is_not_mistaken_for_a_missing_build(env, pip_calls, tmp_path):
    pip_calls.answers = [(1, NO_NETWORK), (0, "")]
    with pytest.raises(start.CannotStart, match="package index cannot be reached"):
        start.install(env, start.CORE_LAYER, "digest", tmp_path)
    assert len(pip_calls.calls) == 1


def test_torch_and_its_companions_are_of_one_release_in_every_layer(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch\n")
    layer = start.comfyui_layer(tmp_path)
    assert layer.arguments() == [*start.TORCH_TRIO, "-r", str(tmp_path / "requirements.txt")]
    assert layer.arguments(pinned=False)[:3] == ["torch", "torchvision", "torchaudio"]
    assert start.CORE[0] == start.TORCH_TRIO[0]


def test_the_environments_folder_names_the_python(tmp_path):
    name = f"env-py{sys.version_info.major}{sys.version_info.minor}"
    assert start.environment(tmp_path).folder == tmp_path / name


def test_an_environment_made_by_hand_is_adopted_and_a_broken_one_made_anew(tmp_path, monkeypatch):
    asked = []

    def capture(command, env=None):
        asked.append([str(word) for word in command])
        return (1 if "--version" in asked[-1] and broken else 0), ""

    monkeypatch.setattr(start, "capture", capture)
    for broken, expected in ((False, ["pip"]), (True, ["pip", "venv"])):
        env = start.Environment(tmp_path / str(broken))
        env.python.parent.mkdir(parents=True)
        env.python.touch()
        asked.clear()
        start.make(env)
        start.make(env)  # the second time there is nothing to ask
        assert [words[2] for words in asked] == expected


def test_a_second_start_installs_nothing_and_costs_less_than_a_second(tmp_path, pip_calls, monkeypatch):
    env = start.environment(tmp_path)

    def make_venv(command, env_=None):
        env.python.parent.mkdir(parents=True)
        env.python.touch()
        return 0, ""

    monkeypatch.setattr(start, "capture", make_venv)
    start.prepare(tmp_path, start.CORE_LAYER, start.TEST_LAYER)
    assert len(pip_calls.calls) == 2
    begun = time.monotonic()
    start.prepare(tmp_path, start.CORE_LAYER, start.TEST_LAYER)
    assert len(pip_calls.calls) == 2
    assert time.monotonic() - begun < 1.0


@POSIX
def test_two_starts_do_not_set_up_at_once(tmp_path):
    path = tmp_path / "lock"
    code = f"import start; from pathlib import Path\nwith start.one_at_a_time(Path({str(path)!r})): print('in')"
    with start.one_at_a_time(path):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1.0)
    assert other.communicate(timeout=10)[0].splitlines()[-1] == "in"


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
    assert start.activity(line) == shown


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
    sentence = start.why_pip_failed(output, "core", tmp_path)
    assert remedy in sentence
    assert is_one_sentence(sentence)


def test_a_python_without_venv_is_told_which_package_to_install():
    sentence = start.why_no_venv("The virtual environment was not created successfully because ensurepip is not\n")
    assert f"python3.{sys.version_info.minor}-venv" in sentence
    assert is_one_sentence(sentence)


# --- ComfyUI ----------------------------------------------------------------------------------------------------------


def comfyui_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def test_comfyui_is_looked_for_in_its_variable_first_then_at_home(tmp_path):
    named, own = comfyui_in(tmp_path / "named"), comfyui_in(tmp_path / "home" / "ComfyUI")
    assert start.find_comfyui(tmp_path / "home", {"COMFYUI_PATH": str(named)}) == named
    assert start.find_comfyui(tmp_path / "home", {}) == own
    assert start.find_comfyui(tmp_path / "home", {"COMFYUI_PATH": ""}) == own
    assert start.find_comfyui(tmp_path / "elsewhere", {}) is None


def test_a_wrong_comfyui_path_is_refused_and_not_passed_over(tmp_path):
    comfyui_in(tmp_path / "ComfyUI")
    with pytest.raises(start.CannotStart, match=r"holds no main\.py"):
        start.find_comfyui(tmp_path, {"COMFYUI_PATH": str(tmp_path / "typo")})


def test_without_git_comfyui_must_be_fetched_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(start.shutil, "which", lambda name: None)
    with pytest.raises(start.CannotStart, match=r"git is not installed: install it, or .*COMFYUI_PATH"):
        start.clone_comfyui(tmp_path)


def test_a_clone_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken_git(command, env=None):
        Path(command[-1]).mkdir()
        (Path(command[-1]) / "main.py").touch()
        return 128, "fatal: unable to access: Could not resolve host"

    monkeypatch.setattr(start.shutil, "which", lambda name: "/usr/bin/git")
    monkeypatch.setattr(start, "capture", broken_git)
    with pytest.raises(start.CannotStart, match="Could not resolve host"):
        start.clone_comfyui(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert start.find_comfyui(tmp_path, {}) is None


def test_a_clone_is_of_the_pinned_release(tmp_path, monkeypatch):
    asked = []

    def git(command, env=None):
        asked.append([str(word) for word in command])
        comfyui_in(Path(command[-1]))
        return 0, ""

    monkeypatch.setattr(start.shutil, "which", lambda name: "/usr/bin/git")
    monkeypatch.setattr(start, "capture", git)
    assert start.clone_comfyui(tmp_path) == tmp_path / "ComfyUI" == start.find_comfyui(tmp_path, {})
    assert asked[0][:-1] == ["git", "clone", "--quiet", "--depth", "1", "--branch", "v0.33.0", start.COMFYUI_URL]


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
    env = start.Environment(Path("/env"))
    command = start.comfyui_command(env, Path("/comfy"), Path("/base"), 8190, gpu, extra)
    assert command[:4] == [str(env.python), str(Path("/comfy/main.py")), "--base-directory", str(Path("/base"))]
    assert command[4:] == ["--database-url", "sqlite:////base/user/comfyui.db", *expected]


def test_a_taken_port_is_passed_over_or_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert start.choose_port([], first=port) > port
        with pytest.raises(start.CannotStart, match=f"Port {port} is taken"):
            start.choose_port(["--port", str(port)])
    assert start.choose_port([f"--port={port}"]) == port


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
    assert start.address_of(arguments) == host


@POSIX
def test_the_pack_is_linked_and_a_stale_link_or_copy_replaced(tmp_path):
    link, other = tmp_path / "hero-feedback", tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").touch()
    link.symlink_to(other)
    start.link_pack(link)
    assert link.resolve() == ROOT
    assert (other / "precious.txt").exists()
    link.unlink()
    (link / "old").mkdir(parents=True)
    start.link_pack(link)
    assert link.is_symlink()
    assert link.resolve() == ROOT
    start.remove_link(link)
    assert (ROOT / "start.py").exists()


@POSIX
def test_a_workflow_that_the_user_has_changed_is_kept(tmp_path, monkeypatch):
    pack = tmp_path / "pack"
    (pack / "examples").mkdir(parents=True)
    (pack / "examples" / "hero_tiny.json").write_text("ours")
    monkeypatch.setattr(start, "ROOT", pack)
    copy = tmp_path / "base" / "user" / "default" / "workflows" / "hero_tiny.json"
    start.prepare_base_directory(tmp_path / "base")
    assert copy.read_text() == "ours"
    copy.write_text("theirs")
    start.prepare_base_directory(tmp_path / "base")
    assert copy.read_text() == "theirs"


def test_the_old_frontend_is_the_one_that_its_comfyui_pins():
    assert start.frontend_version("# x\ncomfyui-frontend-package==1.27.10\ntorch\n") == "1.27.10"
    with pytest.raises(start.CannotStart, match="pins no comfyui-frontend-package"):
        start.frontend_version("torch\n")


def test_an_old_comfyui_without_its_frontend_gets_it_beside_the_environment(tmp_path, env, pip_calls):
    folder = comfyui_in(tmp_path / start.OLD_COMFYUI)
    (folder / "requirements.txt").write_text("comfyui-frontend-package==1.27.10\n")
    target = tmp_path / "frontends" / "1.27.10"
    variables = start.old_comfyui(env, tmp_path)
    assert pip_calls.calls == [["--no-deps", "--target", str(target), "comfyui-frontend-package==1.27.10"]]
    static = target / "comfyui_frontend_package" / "static"
    assert variables == {"COMFYUI_OLD_PATH": str(folder), "COMFYUI_OLD_FRONTEND": str(static)}
    assert start.old_comfyui(env, tmp_path / "nowhere") == {}


# --- Tests and browser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["chromium", "msedge"])
def test_a_browser_that_is_named_comes_before_one_that_is_found(named, tmp_path, monkeypatch):
    program = tmp_path / named
    program.touch()
    monkeypatch.setattr(start.shutil, "which", lambda name: str(program) if name == named else None)
    assert start.find_browser({}) == program
    mine = tmp_path / "mine"
    mine.touch()
    assert start.find_browser({"HERO_CHROMIUM": str(mine)}) == mine
    with pytest.raises(start.CannotStart, match="which is no file"):
        start.find_browser({"HERO_CHROMIUM": str(tmp_path / "typo")})


def test_the_test_command_names_the_suites_and_passes_the_rest(monkeypatch, tmp_path):
    for suite in start.SUITES:
        (tmp_path / "tests" / suite).mkdir(parents=True)
    monkeypatch.setattr(start, "ROOT", tmp_path)
    env = start.Environment(Path("/env"))
    command = start.pytest_command(env, ("core", "comfy"), True, ["-k", "x"])
    side_by_side = ["-n", "2", "--dist", "loadgroup"]
    assert command[1:] == ["-m", "pytest", "tests/core", "tests/comfy", *side_by_side, "--long", "-k", "x"]
    (tmp_path / "tests" / "comfy").rmdir()
    assert start.pytest_command(env, ("core", "comfy"), False, [])[3:] == ["tests/core", *side_by_side]


def test_tests_go_on_without_comfyui_and_say_what_is_missing(tmp_path, monkeypatch):
    def no_network(base):
        raise start.CannotStart("ComfyUI could not be fetched (fatal): check the network.")

    prepared = []
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(start, "clone_comfyui", no_network)
    monkeypatch.setattr(start, "get_browser", lambda env: "/usr/bin/chromium")
    monkeypatch.setattr(start, "prepare", lambda base, *layers: prepared.extend(layers))
    _, plan = start.plan_tests(tmp_path, start.SUITES)
    assert [layer.name for layer in prepared] == ["core", "test"]
    assert plan.missing == ("ComfyUI could not be fetched (fatal): check the network.",)
    assert plan.variables == {"HERO_CHROMIUM": "/usr/bin/chromium"}  # the standalone page is tested all the same


def test_the_core_suite_alone_needs_neither_comfyui_nor_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "find_comfyui", lambda base: pytest.fail("asked for ComfyUI"))
    monkeypatch.setattr(start, "get_browser", lambda env: pytest.fail("asked for a browser"))
    monkeypatch.setattr(start, "prepare", lambda base, *layers: None)
    assert start.plan_tests(tmp_path, ("core",))[1] == start.Plan(("core",), {}, ())


@pytest.mark.parametrize(("checks", "tests", "code"), [((0, 0), 0, 0), ((1, 0), 0, 1), ((0, 0), 1, 1), ((0, 2), 5, 5)])
def test_any_failure_makes_the_exit_code_a_failure(checks, tests, code, monkeypatch):
    codes, told = [*checks, tests], []

    def run(command, env=None, cwd=None):
        told.append(env or {})
        return codes.pop(0)

    plan = start.Plan(("core",), {"COMFYUI_PATH": "/c"}, ("No Chromium.",))
    monkeypatch.setattr(start, "plan_tests", lambda base, suites: (start.Environment(Path("/env")), plan))
    monkeypatch.setattr(start, "run", run)
    assert start.main(["test"]) == code
    assert told[-1]["COMFYUI_PATH"] == "/c"
    assert told[-1]["HERO_TEST_MISSING"] == "No Chromium."
    assert ("FAILED" in told[-1]["HERO_TEST_CHECKS"]) == any(checks)
    assert "COMFYUI_PATH" not in os.environ or os.environ["COMFYUI_PATH"] != "/c"


# --- Ending -----------------------------------------------------------------------------------------------------------

LONG_CHILD = """
import sys, start
child = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(os.getpid(), flush=True); " \\
        "time.sleep(60)"
start.COMMANDS["rate"] = lambda words: start.run([sys.executable, "-c", child])
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
    _, errors = process.communicate(timeout=10)  # a stop that must kill takes 15
    assert process.returncode == 130
    assert errors.strip() == "Stopped."
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@POSIX
def test_a_child_that_a_signal_ended_is_a_failure():
    assert start.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


# --- The closing summary ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_repository(tmp_path: Path) -> Path:
    """A folder like this one: a root that only ComfyUI can import, and one test file in each of two suites."""
    (tmp_path / "__init__.py").write_text("from .nowhere import nothing\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    (tmp_path / "tests" / "core").mkdir(parents=True)
    (tmp_path / "tests" / "comfy").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "tests" / "core" / "test_a.py").write_text(
        "import pytest\n\ndef test_yes(): pass\n\n@pytest.mark.long\ndef test_long(): assert False\n"
    )
    (tmp_path / "tests" / "comfy" / "test_a.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.skip(reason='no ComfyUI was found')\ndef test_x(): pass\n"
    )
    return tmp_path


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "HERO_TEST_MISSING": "Get a browser."}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_summary_counts_each_suite_and_shouts_what_did_not_run(small_repository):
    done = pytest_in(small_repository, "tests/core", "tests/comfy")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^core +1 +0 +1 ", done.stdout, re.MULTILINE)
    assert re.search(r"^comfy +0 +0 +1 ", done.stdout, re.MULTILINE)
    assert "COMFY TESTS DID NOT RUN: NO COMFYUI WAS FOUND" in done.stdout
    assert "MISSING: Get a browser." in done.stdout
    assert done.stdout.index("short test summary") < done.stdout.index("COMFY TESTS DID NOT RUN")  # where it is read
    assert "CORE TESTS DID NOT RUN" not in done.stdout
    assert re.search(r"1 passed, 2 skipped", done.stdout.strip().splitlines()[-1])


def test_a_suite_that_is_not_there_is_missed(small_repository):
    done = pytest_in(small_repository)
    assert "BROWSER TESTS DID NOT RUN: NO TEST WAS FOUND" in done.stdout


def test_long_tests_run_only_when_asked(small_repository):
    done = pytest_in(small_repository, "tests/core", "--long")
    assert done.returncode == 1
    assert re.search(r"^core +1 +1 +0 ", done.stdout, re.MULTILINE)
    assert "COMFY TESTS" not in done.stdout
