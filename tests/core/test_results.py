# SPDX-License-Identifier: Apache-2.0
"""From runs in JSON to the pages about results: by hand-made runs whose tables are known, and as they stand."""

import argparse
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hero_core.__main__ import main
from hero_core.bench import command
from hero_core.bench.figures import WHICH, Figures
from hero_core.bench.pages import RESULTS, fill, filled, pages
from hero_core.bench.records import BenchRun, _renamed, current
from hero_core.bench.run import RunSettings
from hero_core.bench.tables import interval, marks_table, ratio_table, side_table, success_table, use_table
from hero_core.errors import HeroError
from hero_core.tiny.tasks import TASKS
from tests.widgets import NODES

ROOT = Path(__file__).parents[2]


def run(
    method: str, own: list[float], fresh: list[float], task: str = "colour", seed: int = 0, **last: Any
) -> BenchRun:
    """Rounds of 10 marks; ``fresh`` begins with the base model's."""
    rows: list[dict[str, Any]] = [
        {"round": i, "success_fresh": f, "diversity_fresh": 0.2, "entropy_fresh": 2.0 - 0.5 * bool(i)}
        for i, f in enumerate(fresh)
    ]
    for row, success in zip(rows[1:], own, strict=True):
        row |= {"success_mixture": success, "diversity_mixture": 0.1, "marks": 10, "seconds": {"sample": 2.0}}
    rows[-1] |= last
    settings = json.loads(json.dumps(RunSettings(task=task, method=method, seed=seed).to_json()))
    return BenchRun(settings, rows)


HERO = run("hero", [0.4, 0.6, 0.8, 0.9], [0.4, 0.4, 0.5, 0.5, 0.76])
DDPO = run("ddpo", [0.4, 0.4, 0.5, 0.6], [0.4, 0.4, 0.4, 0.4, 0.4])


def cells(text: str, row: int) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[row + 2].strip("|").split("|")]


def test_the_interval_is_students() -> None:
    assert interval([0.5]) == "50 %"
    deviation = math.sqrt(((0.4 - 0.5) ** 2 + (0.6 - 0.5) ** 2) / 2)
    assert interval([0.4, 0.5, 0.6]) == f"50 ± {100 * 4.30 * deviation / math.sqrt(3):.0f} %"


def test_marks_are_those_spent_before_the_pictures_were_drawn() -> None:
    assert [HERO.marks_to(share, "success_mixture") for share in (0.3, 0.5, 0.75, 0.95)] == [0, 10, 20, math.inf]
    assert [HERO.marks_to(share, "success_fresh") for share in (0.3, 0.5, 0.75)] == [0, 20, 40]


def test_tables_by_hand() -> None:
    both = [HERO, DDPO]
    assert cells(success_table(both, "success_fresh"), 0) == ["hero", "76 %"]
    assert cells(success_table([*both, run("hero", [0.5], [0.5, 0.6], "place")], "success_mixture"), 1) == [
        "ddpo", "60 %", "not run", "not run",
    ]  # fmt: skip
    seeds = [run("nft", [0.5], [0.4, fresh], task, seed) for task, seed, fresh in (
        ("colour", 0, 0.6), ("place", 0, 0.8), ("colour", 1, 0.7), ("place", 1, 0.7), ("colour", 2, 0.1),
    )]  # fmt: skip
    assert success_table(seeds, "success_fresh").splitlines()[0] == "| method | colour | place | mean |"
    assert cells(success_table(seeds, "success_fresh"), 0)[3] == "70 ± 0 %"
    assert cells(marks_table(both), 1) == ["ddpo", "20 (1 of 1)", *["– (0 of 1)"] * 5]
    assert cells(side_table(both), 0)[1:4] == ["0.75", "1.00", "0.50"]
    assert cells(side_table(both), 0)[-1] == "2"
    critics = [run("score_action", [0.5], [0.4, 0.5], seed=seed, critic_r2=r2) for seed, r2 in enumerate((0.1, 0.5))]
    assert cells(side_table([*both, *critics]), 2)[5] == "0.30"


def test_the_ratio_of_marks() -> None:
    slow = run("d3po", [0.4, 0.5, 0.6, 0.7, 0.8], [0.4] * 6)
    own = "success_mixture"
    found = ratio_table([HERO, DDPO, slow], own)
    assert cells(found, 0) == ["ddpo / hero", "> 2.0"]
    assert cells(found, 1) == ["d3po / hero", "2.0"]
    never = run("hero", [0.4] * 4, [0.4] * 5)
    assert cells(ratio_table([never, run("d3po", [0.4, 0.5, 0.8, 0.8], [0.4] * 5)], own), 0) == ["d3po / hero", "< 0.5"]
    assert cells(ratio_table([never, DDPO], own), 0) == ["ddpo / hero", "–"]
    twice = ratio_table(
        [HERO, slow, run("hero", [0.9] * 4, [0.4] * 5, seed=1), run("d3po", [0.4] * 5, [0.4] * 6, seed=1)], own
    )
    assert cells(twice, 0)[1] == "–"  # one needed no mark at all: there is no ratio
    quick = run("nft", [0.4] * 2, [0.4, 0.6, 0.8])
    assert cells(ratio_table([HERO, quick], "success_fresh"), 0) == ["nft / hero", "0.5"]


def test_the_ways_of_use() -> None:
    use = {"as trained": {"success": 0.8, "base": 0.4, "drift": 0.1}, "unrelated prompt": {"drift": 0.01}}
    found = use_table([run("nft", [0.5], [0.4, 0.8], use=use), HERO])
    assert cells(found, 0) == ["as trained", "40%", "80%"]
    assert cells(found, 1) == ["unrelated prompt", "", "changed by 0.010"]


def test_changed_settings_are_in_the_label() -> None:
    changed = run("hero", [0.5], [0.4, 0.5])
    changed.settings["mixture"]["eps0"] = 0.3
    assert changed.label == "hero mixture.eps0=0.3"


def test_settings_of_old_runs_have_todays_names() -> None:
    known = {"batch": 8, "kl_coef": 0.0, "gae_lambda": 0.9}
    assert _renamed({"batch": 2, "accumulation": 4, "kl": 1.0, "trace": 0.5}, known) == {
        "batch": 8, "kl_coef": 1.0, "gae_lambda": 0.5,
    }  # fmt: skip
    settings = json.loads(json.dumps(RunSettings(method="nft").to_json()))
    del settings["update"]["centred"], settings["mixture"]["eps0"]
    assert BenchRun(current(settings), []).label == "nft"


def test_the_command_fills_blocks_and_leaves_words(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, page = tmp_path / "results", tmp_path / "RESULTS.md"
    folder.mkdir()
    (folder / "head.json").write_text(
        json.dumps({"runs": [{"settings": r.settings, "rows": r.rows} for r in (HERO, DDPO)]})
    )
    page.write_text("Words.\n<!-- head: fresh -->\nold\n<!-- end -->\nMore.\n<!-- head: curves -->\n<!-- end -->\n")
    assert main(["results", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("Words.\n<!-- head: fresh -->\n| method | colour |")
    assert "old" not in text
    assert "\nMore.\n" in text
    assert "![Success over the rounds](results/head_curves.png)" in text
    assert (folder / "head_curves.png").stat().st_size > 1000
    page.write_text("<!-- head: pie -->\n<!-- end -->\n")
    assert main(["results", str(page)]) == 1
    assert "asks for 'pie'" in " ".join(capsys.readouterr().err.split())


def test_maps_of_two_tasks_are_two_pictures(tmp_path: Path) -> None:
    folder, page = tmp_path / "results", tmp_path / "RESULTS.md"
    folder.mkdir()
    runs = []
    for task in ("colour", "place"):
        mapped = run("hero", [0.5], [0.4, 0.5], task=task)
        mapped.rows[1] |= {"map": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], "labels": ["good", "bad", ""]}
        runs.append({"settings": {**mapped.settings, "maps": True}, "rows": mapped.rows})
    (folder / "head.json").write_text(json.dumps({"runs": runs}))
    page.write_text("".join(f"<!-- head: maps {task} -->\n<!-- end -->\n" for task in ("colour", "place")))
    assert main(["results", str(page)]) == 0
    assert sorted(path.name for path in folder.glob("*.png")) == ["head_maps_colour.png", "head_maps_place.png"]
    assert "(results/head_maps_place.png)" in page.read_text()


def test_no_run_with_a_use_is_an_error_in_words() -> None:
    with pytest.raises(HeroError, match="--use"):
        use_table([HERO])


def test_one_seed_is_not_counted_twice(tmp_path: Path) -> None:
    shorter = run("hero", [0.4], [0.4, 0.5])
    page = tmp_path / "RESULTS.md"
    page.write_text("<!-- twice: fresh -->\n<!-- end -->\n")
    runs = [{"settings": one.settings, "rows": one.rows} for one in (HERO, DDPO, shorter)]
    (tmp_path / "twice.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(HeroError, match="hero on colour with seed 0 is there 2 times"):
        fill(page, tmp_path)
    (tmp_path / "twice.json").write_text(json.dumps({"runs": runs[:2]}))
    fill(page, tmp_path)
    assert "| hero | 76 % |" in page.read_text()


def test_a_block_may_take_several_files_and_some_methods(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("<!-- a+b: fresh d3po ddpo -->\n<!-- end -->\n")
    for name, runs in (("a", [HERO, DDPO]), ("b", [run("d3po", [0.4], [0.4, 0.62])])):
        found = [{"settings": one.settings, "rows": one.rows} for one in runs]
        (tmp_path / f"{name}.json").write_text(json.dumps({"runs": found}))
    fill(page, tmp_path)
    head, *rows = page.read_text().splitlines()[:5]
    assert head == "<!-- a+b: fresh d3po ddpo -->"
    assert rows[2:] == ["| ddpo | 40 % |", "| d3po | 62 % |"]
    elsewhere = run("ddpo", [0.4], [0.4, 0.7], task="frame")
    (tmp_path / "c.json").write_text(json.dumps({"runs": [{"settings": elsewhere.settings, "rows": elsewhere.rows}]}))
    page.write_text("<!-- a+c: fresh frame -->\n<!-- end -->\n")
    fill(page, tmp_path)
    assert "colour" not in page.read_text()
    assert "| ddpo | 70 % |" in page.read_text()
    page.write_text("<!-- a: fresh hreo -->\n<!-- end -->\n")
    with pytest.raises(HeroError, match="for hreo: neither a task nor a method"):
        fill(page, tmp_path)


def test_a_block_may_take_the_first_rounds_alone(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    runs = [{"settings": one.settings, "rows": one.rows} for one in (HERO, DDPO)]
    (tmp_path / "a.json").write_text(json.dumps({"runs": runs}))
    page.write_text("<!-- a: fresh 2 hero -->\n<!-- end -->\n<!-- a: mixture 2 -->\n<!-- end -->\n")
    fill(page, tmp_path)
    found = [line for line in page.read_text().splitlines() if line.startswith("| hero |")]
    assert found == ["| hero | 50 % |", "| hero | 60 % |"]
    page.write_text("<!-- a: fresh 5 -->\n<!-- end -->\n")
    with pytest.raises(HeroError, match="hero on colour ended after round 4, before 5"):
        fill(page, tmp_path)


def write(folder: Path, name: str, runs: list[BenchRun]) -> None:
    found = [{"settings": one.settings, "rows": one.rows} for one in runs]
    (folder / f"{name}.json").write_text(json.dumps({"runs": found}))


def test_a_figure_in_prose_is_that_of_the_runs(tmp_path: Path) -> None:
    every = [run("nft", [0.5, own], [0.3, 0.5, fresh], task, seed, heldout_auc=0.75)
             for task in TASKS for seed, own, fresh in ((0, 0.6, 0.7), (1, 0.7, 0.9))]  # fmt: skip
    write(tmp_path, "a", [*every, run("hero", [0.4, 0.9], [0.4, 0.5, 0.6]), run("d3po", [0.1], [0.2, 0.3])])
    write(tmp_path, "b", [run("hero", [0.4], [0.4, 0.5])])  # a shorter one of the same
    (tmp_path / "cost.json").write_text(json.dumps({"rows": [
        {"rule": "ddpo", "seconds": 4.0, "memory": 10}, {"rule": "nft", "seconds": 3.0, "memory": 5},
    ]}))  # fmt: skip
    figure = Figures.of(tmp_path).figure
    assert figure("fresh 2 nft") == interval([0.7, 0.9])
    assert figure("fresh 2 nft seed=1") == "90 %"
    assert figure("own 2 nft seed=0 colour place") == "60 %"
    assert figure("own 1 nft seed=0") == "50 %"
    assert figure("base 2 nft seed=0") == "30 %"
    assert figure("fresh 2 hero colour") == "60 %"
    assert figure("variety 2 hero colour") == "0.75"
    assert figure("heldout 2 nft") == "0.75"
    assert (figure("cost nft seconds"), figure("cost nft memory")) == ("0.75", "0.50")
    page = tmp_path / "page.md"
    page.write_text("HERO has <!--=fresh 2 hero\ncolour-->55 %<!--/--> and so on.")
    assert fill(page, tmp_path)
    assert page.read_text() == "HERO has <!--=fresh 2 hero\ncolour-->60 %<!--/--> and so on."
    assert not fill(page, tmp_path)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("fresh 2 hero", "no run of 2 rounds on count"),
        ("fresh 3 hero colour", "no run of 3 rounds on colour"),
        ("own hero colour", "with rounds learned"),
        ("price 2 hero colour", "is none: fresh"),
        ("fresh 2 hero colour update.lr=0.5", "no run of 2 rounds on colour"),
        ('use "guidance 1" hero colour', "no run that drew pictures in this way"),
    ],
)
def test_a_figure_that_no_run_has_is_an_error(tmp_path: Path, what: str, says: str) -> None:
    write(tmp_path, "a", [run("hero", [0.4, 0.9], [0.4, 0.5, 0.6])])
    with pytest.raises(HeroError, match=says):
        Figures.of(tmp_path).figure(what)


def test_a_round_without_a_measurement_has_no_figure(tmp_path: Path) -> None:
    between = run("hero", [0.4, 0.9], [0.4, 0.5, 0.6])
    del between.rows[1]["success_fresh"]
    write(tmp_path, "a", [between])
    with pytest.raises(HeroError, match="has no success_fresh after 1 rounds"):
        Figures.of(tmp_path).figure("fresh 1 hero colour")


# -- the pages as they stand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_figure_and_table_is_that_of_the_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, page, draw=False) == text, "python -m hero_core results"


@pytest.mark.parametrize("page", [ROOT / "README.md", RESULTS.parent / "RESULTS.md"], ids=lambda page: page.name)
def test_no_measured_figure_is_typed_by_hand(page: Path) -> None:
    text = re.sub(r"<!-- .*?<!-- end -->|<!--=.*?<!--/-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [found for found in re.findall(r"\d+(?:\.\d+)? ?%|(?<![\d.])0?\.\d\d\b", text) if found != "95 %"] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", RESULTS.parent / "RESULTS.md"], ids=lambda page: page.name)
def test_the_pages_name_widgets_and_workflows_that_there_are(page: Path) -> None:
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", page.read_text(encoding="utf-8")))
    inputs = {name for node in NODES.values() for name in node.inputs}
    examples = {path.stem for path in (ROOT / "examples").glob("*.json")}
    assert len(named) > 3
    assert named - inputs - examples - {"batch_size"} == set()  # batch_size: Empty Latent Image's own


def test_every_run_stands_beside_the_command_that_makes_it() -> None:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    asked: dict[str, set[str]] = {path.name: set() for path in RESULTS.glob("*.json") if path.name != "cost.json"}
    for page in RESULTS.glob("*.md"):
        for line in re.findall(r"^python -m hero_core bench (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            options = parser.parse_args(shlex.split(line))
            assert (ROOT / options.json).parent == RESULTS
            asked[options.json.name] |= {command.key(one.to_json()) for one in command.all_settings(options)}
    assert len(asked) == 19
    for name, runs in asked.items():
        assert runs == command.recorded(RESULTS / name).keys(), name


def test_every_section_is_linked_and_every_advice_is_an_example() -> None:
    text = (RESULTS.parent / "RESULTS.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(results/(\w+\.md)\)", text)
    assert sorted(linked) == sorted(path.name for path in RESULTS.glob("*.md"))
    examples = {found for one in WHICH for found in re.findall(r"`(\w+)`", one.take)}
    assert {path.stem for path in (ROOT / "examples").glob("*.json")} >= examples
