"""The pages made of figures/: README.md, figures/README.md and the poster say what the tables say."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil

import pandas as pd
import pytest
from matplotlib.text import Text

from amc_lib.files import ROOT
from amc_study.figures import FOLDER, to_image
from amc_study.report import pages, poster, wording
from amc_study.report.tuning import tuning


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for path in (path for kind in ("csv", "json") for path in FOLDER.rglob(f"*.{kind}")):
        shutil.copy(path, tmp_path / path.relative_to(FOLDER))
    return tmp_path


@pytest.mark.parametrize("template", pages.PAGES)
def test_committed_pages_are_what_the_templates_give(template):
    text = pages.PAGES[template].read_text(encoding="utf-8")
    assert text == pages.render(template), "python -m amc_study.report renews it"


@pytest.mark.parametrize("page", pages.PAGES.values(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)}
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert target[1:] in anchors if target.startswith("#") else (page.parent / target).exists(), target


def test_what_the_readme_names_is_there():
    text = pages.PAGES["README.md.j2"].read_text(encoding="utf-8")
    for notebook in re.findall(r"`(\d\d_\w+)`", text):
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file(), notebook
    for module in re.findall(r"python -m ((?:amc_lib|amc_study|tests)[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"[(`]((?:figures|tests|data|notebooks)/[\w./-]+\.\w+)", text):
        assert (ROOT / path).is_file(), path


def test_times_are_those_of_the_shipped_runs(monkeypatch):
    monkeypatch.setattr(pages, "trained", lambda name: {"seconds": 60 * len(name), "threads": 7, "processor": "abacus"})
    page = pages.render("README.md.j2")
    for name in ("albef-photos", "amc-photos", "albef-finetuned-photos"):
        assert re.search(rf"\b{len(name)}\b", page), name
    assert "each on 7 thread" in page and "(abacus)" in page


def test_no_figure_or_table_is_forgotten():
    text = pages.PAGES["figures.md.j2"].read_text(encoding="utf-8")
    forgotten = [path.name for kind in ("png", "csv") for path in FOLDER.glob(f"*.{kind}") if path.name not in text]
    assert not forgotten


def test_every_number_of_the_summary_follows_its_table(folder):
    table = pd.read_csv(folder / "table1.csv")
    table.loc[(table["system"] == "AMC") & (table["split"] == "phrases"), "accuracy"] = 12.3
    table.to_csv(folder / "table1.csv", index=False)
    claims = pd.read_csv(folder / "claims.csv")
    row = claims["claim"] == "AMC is better than VMRM: phrases"
    claims.loc[row, ["difference", "ci_low", "ci_high"]] = [-0.4, -1.2, 0.3]
    claims.to_csv(folder / "claims.csv", index=False)
    text = pages.render("figures.md.j2", folder)
    assert "AMC points right for 12.3 % of the phrases" in text
    assert "**Undecided: AMC is 0.4 points behind VMRM [−1.2, +0.3]**" in text


def test_photographs_have_their_ablations_and_second_base_where_they_were_asked(folder):
    photos = folder / "photos"
    for path in (*photos.glob("ablation_*"), *photos.glob("second_*")):
        path.unlink()
    without = [pages.render(page, folder) for page in ("README.md.j2", "figures.md.j2")]
    assert not any("second base" in text or "Asked of photographs alone" in text for text in without)
    values = {"system": ["ALBEF", "ALBEF finetuned", "AMC"], "asked": "own phrase", "accuracy": [41.0, 42.0, 63.0]}
    pd.DataFrame(values).to_csv(photos / "second_base.csv", index=False)
    lead = {"AMC minus": "ALBEF finetuned", "asked": "own phrase", "difference": 21.0, "ci_low": 18.5, "ci_high": 23.5}
    pd.DataFrame([lead]).to_csv(photos / "second_base_paired.csv", index=False)
    text = pages.render("README.md.j2", folder)
    assert "AMC hits 63.0 %, 21.0 points [18.5, 23.5]" in text and "(42.0 %; that base itself 41.0 %)" in text
    rows = pd.read_csv(folder / "ablation_terms.csv").query("split == 'phrases'").assign(split="photographs test")
    for name in ("terms", "controls"):
        rows.to_csv(photos / f"ablation_{name}.csv", index=False)
    text = pages.render("figures.md.j2", folder)
    alone = sum(not (folder / f"ablation_{name}.csv").is_file() for name in ("terms", "controls"))
    assert text.count("Asked of photographs alone") == alone  # others stand beside those of scenes
    for name in ("terms", "controls"):
        table = text.split(f"`photos/ablation_{name}.csv`")[1].splitlines()[2:]
        assert [line.split("|")[1].strip() for line in table[2:6]] == list(rows["setting"].unique())


def test_missing_table_is_named_and_the_rest_stays(folder):
    whole = pages.render("figures.md.j2", folder)
    for name in ("table1", "claims", "ablation_ranks"):
        (folder / f"{name}.csv").unlink()
    text = pages.render("figures.md.j2", folder)
    assert "Missing: table1.csv. `04_evaluate` writes it." in text and "Missing: claims.csv" in text
    assert len(text) > 0.8 * len(whole)
    assert "Missing: table1.csv" in pages.render("figures.md.j2", folder / "nothing")
    assert "missing: table1.csv" in pages.render("README.md.j2", folder / "nothing")


def test_table_across_keeps_the_order_of_rows_and_columns():
    table = pd.DataFrame({"system": list("BBA"), "split": list("yxy"), "accuracy": [1.25, 2.0, 3.0]})
    table = table.assign(ci_low=1.0, ci_high=4.0)
    expected = [["B", "1.2 [1.0, 4.0]", "2.0 [1.0, 4.0]"], ["A", "3.0 [1.0, 4.0]", "–"]]
    wide = wording.wide(table, "system", "split", "accuracy")
    assert list(wide.columns) == ["system", "y", "x"] and wide.to_numpy().tolist() == expected
    assert wording.markdown(wide).splitlines()[2].startswith("| B ")


def test_differences_are_bold_only_where_they_are_sure():
    row = {"difference": -2.25, "difference_low": -3.0, "difference_high": 0.5, "p": 0.04}
    assert wording.change(row) == "**−2.2 [−3.0, +0.5]**"
    assert wording.change(row | {"p": 0.06}) == "−2.2 [−3.0, +0.5]"
    assert wording.change(row | {"difference": float("nan")}) == "–"


def test_lists_in_words():
    assert [wording.listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_poster_is_drawn_without_pictures_and_names_its_inputs(folder, monkeypatch):
    monkeypatch.setattr(poster, "DPI", 30)
    drawn = []
    monkeypatch.setattr(poster, "to_image", lambda figure, dpi: drawn.append(figure) or to_image(figure, dpi))
    poster.main(folder)
    assert (folder / "poster.pdf").stat().st_size and (folder / "poster.png").stat().st_size
    account = pages.Results(folder).account("poster")
    assert set(account["settings"]["inputs"]) == {"table1.csv", "photos/table1.csv", "photos/claims.csv"}
    texts = [artist.get_text() for artist in drawn[0].findobj(Text)]
    results = pages.Results(folder / "photos")
    assert f"{results.accuracy('AMC', results.first_split())['accuracy']:.1f} %" in texts
    assert wording.signed(results.lead("VMRM")["difference"]) in texts


def test_tuning_counts_what_was_tried_and_leaves_controls_out(tmp_path):
    def run(seconds, pointing, read="gradcam", **changes):
        parameters = {"tier": "scenes", "seed": 0, "epochs": 1} | changes
        return {"parameters": parameters, "read": read, "layers": {"3": pointing}, "training": {"seconds": seconds}}

    tried = [run(60, 69.0), run(60, 68.0, delta1=0.0), run(120, 70.0, lambda1=1.0, lambda2=0.0)]
    tried[0]["parameters"] = dict(reversed(tried[0]["parameters"].items()))
    tried.append(run(60, 69.0))  # the same, asked again
    controls = [
        run(600, 99.0, lambda1=0.0, lambda2=0.0),
        run(600, 99.0, box_share=0.1),
        run(600, 99.0, seed=1),
        run(600, 99.0, read="attention"),
        run(600, 99.0, epochs=3),
    ]
    (tmp_path / "ablations.json.gz").write_bytes(gzip.compress(json.dumps({"runs": tried + controls}).encode()))
    trials = "changed,seconds,map50,taken\nnothing,90,80.0,True\nwider,30,81.0,False\n"
    (tmp_path / "detector_trials.csv").write_text(trials)
    rival, ours = tuning(tmp_path).drop(columns=["part", "judged by"]).values.tolist()
    assert rival == [2, "2", "80.0", "81.0"] and ours == [3, "4", "69.0", "70.0"]
