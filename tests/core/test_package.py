# SPDX-License-Identifier: Apache-2.0
"""What the registry would publish: the archive packed as its tool packs it, and looked through as its scanner does."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import hero_core
import start
from launch.environment import CORE
from tests import spdx
from tests.published import BROUGHT, HOST, is_checkout, pack, published, reached

ROOT = Path(start.__file__).resolve().parent
SCRIPTS = (".py", ".js", ".mjs")

# The strings that the registry's scanner flags, whatever they are part of.
FLAGGED = {
    "subprocess": re.compile(r"\bsubprocess\b"),
    ".connect(": re.compile(r"\.connect\("),
    ".bind(": re.compile(r"\.bind\("),
    ".send(": re.compile(r"\.send\("),
    "writing os.environ": re.compile(r"os\.environ\s*\[[^\]]*\]\s*=[^=]|os\.environ\.(update|setdefault|pop)|putenv\("),
    "eval(": re.compile(r"\beval\("),
    "exec(": re.compile(r"(?<![\w.])exec\("),
    "os.system": re.compile(r"os\.(system|popen)\("),
    "pickle": re.compile(r"\bpickle\b|torch\.load\("),
    "innerHTML": re.compile(r"innerHTML|insertAdjacentHTML|document\.write"),
}


@pytest.fixture(scope="module")
def archive() -> list[PurePosixPath]:
    """What the registry's tool packs."""
    if not is_checkout():
        pytest.skip("the archive is packed from a git checkout")
    return [PurePosixPath(name) for name in published()]


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    """The archive as an installer unpacks it, in a folder whose name is no module's."""
    pytest.importorskip("pathspec", reason="comes with mypy")
    base = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(pack(base / "node.zip")) as packed:
        assert packed.testzip() is None
        packed.extractall(base / "hero-feedback-1.0")
    return base / "hero-feedback-1.0"


@pytest.fixture(scope="module")
def scripts(archive) -> dict[str, str]:
    """The text of every program file of the archive."""
    return {str(path): (ROOT / path).read_text(encoding="utf-8") for path in archive if path.suffix in SCRIPTS}


def table(header: str) -> str:
    """One table of pyproject.toml as text; Python 3.10 has no reader for it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.split(r"^\[", text.split(f"\n[{header}]\n" if not text.startswith(f"[{header}]") else f"[{header}]\n")[1],
                    maxsplit=1, flags=re.MULTILINE)[0]  # fmt: skip


def field(header: str, name: str) -> str:
    found = re.search(rf'^{re.escape(name)} = "([^"]*)"', table(header), re.MULTILINE)
    assert found, f"[{header}] has no {name}"
    return found[1]


# --- The archive ------------------------------------------------------------------------------------------------------


FOLDERS = {
    ".": {"__init__.py", "pyproject.toml", "README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"},
    "nodes": {"*.py"},
    "hero_core": {"*.py"},
    "hero_core/rating": {"*.py", "openapi.json"},
    "hero_core/store": {"*.py"},
    "hero_core/tiny": {"*.py", "tiny.safetensors", "tiny_flow.safetensors"},
    "hero_core/update": {"*.py"},
    "web": {"*.mjs", "hero.js", "hero.css", "icon.svg", "rating.html"},
    "web/docs": {"HERO_*.md"},
    "examples": {"*.json", "*.jpg"},
}
"""Every folder of the archive, with the files that it may hold."""


def test_the_archive_holds_known_files_in_known_folders_and_nothing_else(archive, unpacked):
    inside = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert inside == {str(path) for path in archive}
    known = [path for path in archive for kind in FOLDERS.get(str(path.parent), ()) if path.match(kind)]
    assert [str(path) for path in archive if path not in known] == []
    assert {str(path) for path in archive if path.parent == PurePosixPath(".")} == FOLDERS["."]
    assert [path for path in unpacked.rglob("*") if path.is_symlink()] == []


def test_each_program_of_the_archive_is_used_and_needs_none_outside_it(archive):
    assert {str(path) for path in archive if path.suffix == ".py"} == set(reached())


def test_each_script_of_the_archive_is_reached_from_comfyui_or_the_rating_page(archive):
    entries = [ROOT / "web" / "hero.js", ROOT / "web" / "rating.html"]
    found, waiting = set(), list(entries)
    while waiting:
        path = waiting.pop()
        found.add(path.relative_to(ROOT).as_posix())
        names = re.findall(r"""["'/]([\w]+\.mjs)["']""", path.read_text(encoding="utf-8"))
        waiting += [path.parent / name for name in names if f"web/{name}" not in found]
    assert {str(path) for path in archive if path.suffix in (".js", ".mjs", ".html")} == found


def test_nothing_published_imports_what_is_not_brought():
    needed = {package: name for name, packages in reached().items() for package in packages}
    assert {package: name for package, name in needed.items() if package not in HOST | BROUGHT} == {}
    assert BROUGHT <= set(needed)


def test_what_is_unpacked_serves_the_rating_page_with_all_its_parts(unpacked, tmp_path):
    script = """
import asyncio, re, sys
from pathlib import Path
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hero_core.rating.routes import add_routes
from hero_core.store import Store
from hero_core.tiny.model import FLOW_WEIGHTS, load_weights
assert set(load_weights()) == {"unet", "text", "vae"}
assert set(load_weights(FLOW_WEIGHTS)) == {"dit", "text"}

async def main():
    app = web.Application()
    add_routes(app, lambda: Store(Path(sys.argv[1]), Path(sys.argv[1])))
    async with TestClient(TestServer(app)) as client:
        page = await (await client.get("/hero/")).text()
        parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
        for part in parts:
            assert (await client.get(f"/hero/{part}")).status == 200
        print(len(parts))

asyncio.run(main())
"""
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


def test_no_text_names_a_place_on_somebodys_machine_or_a_secret(archive, unpacked):
    private = re.compile(
        r"/(root|home|Users|tmp|work)/[a-z.]|[A-Z]:\\\\Users|BEGIN [A-Z ]*PRIVATE KEY|"
        r"(api|secret)_?key\s*=\s*['\"]\w{16}|[\w.]+@[\w-]+\.(com|org|net|io)\b", re.IGNORECASE,
    )  # fmt: skip
    texts = [path for path in archive if path.suffix not in (".safetensors", ".jpg", ".png")]
    found = [(str(path), line) for path in texts for line in (unpacked / path).read_text(encoding="utf-8").splitlines()
             if private.search(line)]  # fmt: skip
    assert found == []


def test_the_archive_is_small(archive):
    size = sum((ROOT / path).stat().st_size for path in archive)
    assert size < 14e6, f"{size / 1e6:.1f} MB"


def test_the_weights_of_each_tiny_model_take_at_most_6_mb(archive):
    sizes = [(ROOT / path).stat().st_size for path in archive if path.suffix == ".safetensors"]
    assert len(sizes) == 2
    assert all(0 < size <= 6e6 for size in sizes)


def test_the_weights_are_in_the_repository_itself_and_not_a_pointer(archive):
    for path in (path for path in archive if path.suffix == ".safetensors"):
        with (ROOT / path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            assert length < 1_000_000
            assert isinstance(json.loads(file.read(length)), dict)


# --- What the scanner looks for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", FLAGGED)
def test_nothing_published_holds_a_flagged_pattern(what, scripts):
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in scripts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if FLAGGED[what].search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("subprocess", "import subprocess"),
        (".connect(", "db.connect(x)"),
        (".bind(", "this.f = this.f.bind(this)"),
        (".send(", "socket.send(data)"),
        ("writing os.environ", 'os.environ["A"] = "b"'),
        ("writing os.environ", "os.environ.setdefault('A', 'b')"),
        ("eval(", "model.eval()"),
        ("exec(", "exec(code)"),
        ("os.system", "os.system('ls')"),
        ("pickle", "torch.load(path)"),
        ("innerHTML", "node.innerHTML = text"),
    ],
)
def test_the_patterns_find_what_they_are_for(what, line):
    assert FLAGGED[what].search(line)


@pytest.mark.parametrize("line", ['if os.environ["A"] == "b":', "pattern.exec(text)", "evaluate(x)", "rebind(x)"])
def test_the_patterns_pass_over_what_is_harmless(line):
    assert [what for what, pattern in FLAGGED.items() if pattern.search(line)] == []


def test_the_archive_passes_the_rules_that_the_registry_runs(archive):
    paths = [str(path) for path in archive if path.suffix == ".py"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "S102,S307,E702", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["archive", "repository"])
def test_the_registrys_own_check_has_nothing_to_say(place, unpacked):
    # word for word what its tool runs before it packs, in the folder it is started in
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--select", "S102,S307,E702", "--exit-zero"]
    where = unpacked if place == "archive" else ROOT
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_no_file_names_a_package_registrys_host(archive):
    hosts = re.compile(r"pypi\.org|pythonhosted\.org|registry\.npmjs|download\.pytorch\.org|deb\.debian\.org")
    texts = [path for path in archive if path.suffix in (*SCRIPTS, ".md", ".toml", ".txt", ".json", ".html", ".css")]
    assert [str(path) for path in texts if hosts.search((ROOT / path).read_text(encoding="utf-8"))] == []


# --- Layout -----------------------------------------------------------------------------------------------------------


def test_examples_are_workflows_with_a_picture_each_and_nothing_else(archive):
    names = {path.name for path in archive if path.parts[0] == "examples"}
    workflows = {PurePosixPath(name).stem for name in names if name.endswith(".json")}
    assert {"hero_tiny", "hero_sd15", "use_the_lora"} <= workflows
    assert names == {f"{name}{suffix}" for name in workflows for suffix in (".json", ".jpg")}


def test_examples_are_workflows_of_comfyuis_page(archive):
    for path in (path for path in archive if path.parts[0] == "examples" and path.suffix == ".json"):
        workflow = json.loads((ROOT / path).read_text(encoding="utf-8"))
        assert workflow["nodes"], path
        assert {"id", "type", "pos"} <= set(workflow["nodes"][0]), path


def test_comfyui_loads_one_script_and_it_imports_the_rest(archive):
    # ComfyUI imports every .js under the folder, so shared modules must be .mjs.
    assert [str(path) for path in archive if path.suffix == ".js"] == ["web/hero.js"]


def test_the_pack_is_announced_by_its_entry_point_alone():
    # An old-style table of nodes would switch the entry point off.
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert "NODE_CLASS_MAPPINGS" not in text
    assert "comfy_entrypoint" in text
    assert re.search(r'^WEB_DIRECTORY = "\./web"', text, re.MULTILINE)


def test_hero_core_knows_nothing_of_comfyui_and_the_nodes(scripts):
    inward = re.compile(r"^\s*(from|import) (comfy\b|comfy_|nodes\b|folder_paths|server\b|execution\b)|from \.\.+nodes",
                        re.MULTILINE)  # fmt: skip
    assert [name for name, text in scripts.items() if name.startswith("hero_core/") and inward.search(text)] == []


# --- pyproject.toml and its friends -----------------------------------------------------------------------------------


def test_versions_agree():
    version = field("project", "version")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert (hero_core.__version__, released[0]) == (version, version)


def test_the_registrys_table_is_filled():
    assert field("project", "name") == "hero-feedback"
    assert "comfyui" not in field("project", "name").lower()
    assert field("tool.comfy", "PublisherId") == "hero-feedback"
    assert field("tool.comfy", "DisplayName") == "HERO Feedback"
    assert field("tool.comfy", "requires-comfyui") == ">=0.3.64"
    assert not re.search(r"^web\b", table("tool.comfy"), re.MULTILINE)  # would load the page's files twice


DISTRIBUTIONS = {"PIL": "pillow"}
FOR_CLONES = {"tqdm", "rich", "matplotlib"}
"""What the demo, the measurements and the tiny model's training need as well."""


def test_pyproject_declares_what_is_imported_and_start_installs_it():
    declared = re.search(r"^dependencies = \[(.*?)^\]", table("project"), re.MULTILINE | re.DOTALL)[1]
    names = {re.split(r"[<>=~!]", name)[0] for name in re.findall(r'"([^"]+)"', declared)}
    assert names == {DISTRIBUTIONS.get(name, name) for name in BROUGHT}
    assert names | FOR_CLONES == {re.split(r"[<>=~!]", name)[0] for name in CORE}


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = { file = "LICENSE" }' in table("project")


def test_each_source_file_names_the_licence_in_its_place():
    if not is_checkout():
        pytest.skip("git says which files there are")
    assert spdx.missing() == [], "python -m tests.spdx adds the line"


# --- SECURITY.md ------------------------------------------------------------------------------------------------------


def test_the_readme_leads_to_security_md(readme):
    assert "[SECURITY.md](SECURITY.md)" in readme


def test_security_md_names_what_is_stored_and_who_can_reach_it():
    from hero_core.rating import app

    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`]+)`", text))
    assert {"output/hero/<session>/", "models/loras/hero/<session>_r0007.safetensors", "--listen"} <= named
    assert "127.0.0.1" in text
    assert {inspect.signature(serve).parameters["host"].default for serve in (app.serve, app.serving)} == {"127.0.0.1"}
    assert "no log-in" in text
    assert "Report" in text
    assert not re.search(r"@|github|gitlab", text), "words that hold on any host"


# --- README -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")
FOR_THE_PAGE = re.compile(r"docs/|CONTRIBUTING\.md$|(.*/)?RESULTS\.md$|.*/results/")
"""What the README may show on the repository's page, where all links resolve, though the archive does not hold it:
pictures, how to contribute, and results."""


@pytest.mark.parametrize("pages", ["*.md", "docs/*.md", "hero_core/bench/*.md", "hero_core/bench/results/*.md"])
def test_what_the_documents_link_to_is_there(pages):
    found = list(ROOT.glob(pages))
    assert found
    links = [(page, link) for page in found for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [link for page, link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "SECURITY.md"])
def test_what_published_documents_link_to_is_published_or_for_the_repositorys_page(name, archive):
    links = LINK.findall((ROOT / name).read_text(encoding="utf-8"))
    places = {str(place) for path in archive for place in (path, *path.parents)}
    assert [link for link in links if link.rstrip("/") not in places and not FOR_THE_PAGE.match(link)] == []


def test_the_readme_names_every_node_and_example(readme, archive):
    shown = [
        name
        for path in archive
        if path.parts[0] == "nodes" and path.suffix == ".py"
        for name in re.findall(r'display_name="([^"]+)",\s*category', (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert len(shown) >= 8
    assert [name for name in shown if f"**{name}**" not in readme] == []
    examples = [path.stem for path in archive if path.parts[0] == "examples" and path.suffix == ".json"]
    assert [name for name in examples if f"`{name}`" not in readme and name not in readme] == []


def test_the_readmes_variables_and_commands_are_those_of_start(readme):
    assert set(re.findall(r"`python start\.py ?(\w*)", readme)) - {""} <= set(start.COMMANDS)
    text = (ROOT / "start.py").read_text(encoding="utf-8")
    assert all(name in text for name in re.findall(r"`(HERO_[A-Z_]+|COMFYUI_[A-Z_]+)`", readme))


@pytest.fixture
def waiting_round(tmp_path):
    """Five pictures that wait for marks, from black to blue; and the address that serves them."""
    torch = pytest.importorskip("torch")
    from hero_core.rating.app import serving
    from hero_core.rollout import Rollout, SamplingSettings
    from hero_core.store import SessionSettings, Store

    store = Store(tmp_path / "hero", tmp_path / "loras")
    session = store.open("my_session", SessionSettings())
    latents, recorded = torch.zeros(2, 5, 4, 2, 2), torch.zeros(2, 5, 1, 4, 2, 2)
    rollout = Rollout(
        round=1, z_T=latents[0].clone(), z_0=latents[1].clone(), source=torch.full((5,), -1),
        sigmas=torch.tensor([1.0, 0.0]), steps=torch.zeros(5, 1, dtype=torch.int64), x=recorded[0].clone(),
        x_next=recorded[1].clone(), x0_hat=recorded[1].clone(), log_prob=torch.zeros(5, 1),
        settings=SamplingSettings(steps=1, scored_steps=1),
    )  # fmt: skip
    round_ = session.round(1)
    round_.write_rollout(rollout)
    pictures = torch.zeros(5, 64, 64, 3)
    pictures[..., 2] = torch.tensor([0.0, 0.2, 1.0, 0.4, 0.9])[:, None, None]
    round_.write_pictures(pictures, "wait")
    with serving(store) as address:
        yield round_, address.rstrip("/")


def example(language: str, address: str) -> str:
    """An example of the page about rating over HTTP, with the server's address put in."""
    page = (ROOT / "docs" / "rating_over_http.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    (text,) = [block for block in blocks if "http://127.0.0.1:8188/hero" in block]
    return text.replace("http://127.0.0.1:8188/hero", address)


def test_the_python_example_rates_a_round(waiting_round):
    round_, address = waiting_round
    code = example("python", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    marks = round_.marks()
    assert marks.submitted
    assert (marks.feedback.good, marks.feedback.bad, marks.feedback.best) == ([2, 4], [0, 1, 3], 2)


def test_the_curl_example_marks_the_same_way(waiting_round, tmp_path):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("needs curl and bash")
    round_, address = waiting_round
    code = example("bash", address).replace('"5": "bad"', '"4": "bad"')  # five pictures: 0 to 4
    done = subprocess.run(["bash", "-ec", code.replace("curl ", "curl -fsS ")], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    marks = round_.marks()
    assert (marks.feedback.good, marks.feedback.bad, marks.feedback.best) == ([0, 3], [4], 3)
    assert marks.submitted
    assert (tmp_path / "picture.jpg").stat().st_size > 100
