"""figures/README.md is what the code makes of the committed files, forgets none of them, and its links resolve."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from gallery_tables import PICTURES, TABLES, ablation

from amc_lib.files import write_csv
from amc_study.explain.claims import NEVER_BOXED, NOT_REPRODUCED, REPRODUCED, Claim
from amc_study.figures import FOLDER
from amc_study.report.gallery import PAGE, Results, page
from amc_study.report.gallery.ablations import CHANGED, GRID
from amc_study.report.gallery.page import anchor
from amc_study.report.gallery.results import Number, across, listed, markdown, with_interval
from amc_study.report.gallery.sections import SECTIONS

SHOWN_KINDS = (".png", ".gif", ".csv", ".svg", ".pdf", ".safetensors")


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def assert_links_resolve(text: str, folder: Path) -> None:
    anchors = {anchor(title) for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}
    for link in links(text):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif link.startswith("../"):
            assert (FOLDER / link).is_file(), link
        else:
            assert (folder / link).is_dir() if link.endswith("/") else (folder / link).is_file(), link


# ---------------------------------------------------------------------------------------------------- what is committed


def test_committed_page_is_made_of_the_committed_files():
    text = (FOLDER / PAGE).read_text(encoding="utf-8")
    assert text == page(FOLDER), "python -m amc_study.report.gallery renews it"


def test_no_file_is_forgotten_and_every_link_resolves():
    text = page(FOLDER)
    linked = set(links(text))
    for path in FOLDER.iterdir():
        if path.suffix in SHOWN_KINDS:
            assert path.name in linked, path.name
        if path.suffix in (".png", ".gif"):
            assert re.search(rf"!\[[^\]]+\]\({re.escape(path.name)}\)", text), path.name
    assert_links_resolve(text, FOLDER)


def test_every_committed_table_has_its_settings_commit_and_seed():
    results = Results(FOLDER)
    for entry in (entry for section in SECTIONS for entry in section.entries):
        if any(results.has(f"{stem}.csv") for stem in entry.stems):
            account = results.account(entry.account or entry.stems[0])
            assert account and {"settings", "commit", "seed"} <= set(account), entry.title


# ------------------------------------------------------------------------------------------------- with made-up results


@pytest.fixture
def folder(tmp_path) -> Path:
    """Every table that the study may leave, and pictures of their names."""
    for name, table in TABLES.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    for name in PICTURES:
        (tmp_path / f"{name}.png").write_bytes(b"")
    account = {"commit": "0123456789" * 4, "dirty": False, "date": "2026-11-25T03:08:45+00:00", "seed": 7}
    account |= {
        "settings": {"scenes": {"pretrain": 24000}},
        "film": {"phrases": 5, "seed": 0, "pictures": 100, "epochs": 1},
    }
    for name in ("accuracy", "training", "ablation_terms"):
        (tmp_path / f"{name}.json").write_text(json.dumps(account))
    return tmp_path


def test_every_section_is_there_when_its_files_are(folder):
    text = page(folder)
    absent = {"What is asked, and how"}  # its files are not made up here
    assert [title for title in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)] == [
        section.title for section in SECTIONS if section.title not in absent
    ]
    assert "Further files" not in text and "nan" not in text.split("Made by")[0]
    assert_links_resolve(text, folder)
    assert {f"{name}.csv" for name in TABLES} | {f"{name}.png" for name in PICTURES} <= set(links(text))


def block(text: str, title: str) -> str:
    return text.split(f"### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]


def without_claims(folder: Path) -> str:
    (folder / "claims.csv").unlink()
    return page(folder)


def test_sentences_hold_the_numbers_of_the_tables(folder):
    text = without_claims(folder)
    outcome = block(text, "Pointing accuracy (table 1)")
    assert (
        "AMC 69.8 % [68.8, 70.8], 9.1 points ahead of ALBEF (60.7 %; intervals apart), 4.6 points ahead of" in outcome
    )
    assert "17.5 points behind VMRM (87.3 %; intervals apart)" in text
    assert "24,000 drawn scenes with captions" in text
    film_said = block(text, "Heatmaps during finetuning")
    assert "In 180 updates pointing on 812 validation phrases goes from 63.1 % to 66.0 % (ALBEF" in film_said
    assert "finetuned) and 68.4 % (AMC)" in film_said
    terms = block(text, "Which of the two terms does it?")
    assert "Points on `phrases` against *both* (66.8 % [65.8, 67.8]): sure are *no boxes* −1.2 [−9.0, +1.0]; " in terms
    assert "; not sure: *L_mean* and *L_max*." in terms
    assert "| both | 3 | 66.8 [65.8, 67.8] |" in terms and "| no boxes | 3 | 69.8 [68.8, 70.8] |" in terms
    ends = {line.split(" | ")[0]: line.rsplit(" | ", 1)[1] for line in terms.splitlines() if line.startswith("| ")}
    assert (ends["| no boxes"], ends["| L_mean"]) == ("**−1.2 [−9.0, +1.0]** |", "−2.2 [−9.0, +1.0] |")
    assert ends["| both"] == "– |"
    assert "| phrases | all | 4 | 0.8 | a < b | b < a |" in text
    made_by = (
        "commit `0123456`, 2026-11-25; seed 7; means of 3 training seeds; settings and versions: [ablation_terms.json]"
    )
    assert made_by in terms
    assert "insertion: ALBEF +0.050 and AMC +0.062" in block(text, "Deletion and insertion")
    assert "Recall@1: picture to caption ALBEF 40.0 % and AMC 41.2 %; caption to" in block(
        text, "Retrieval and matching"
    )
    assert "20.1 % another thing" in block(text, "Failures")


def test_ablations_name_what_their_numbers_are_traced_to(folder):
    assert "leaves a record" in page(folder) and "ablations.json.gz" not in page(folder)
    (folder / "ablations.json.gz").write_bytes(b"")
    text = page(folder)
    assert "All records: [ablations.json.gz](ablations.json.gz)." in text
    assert_links_resolve(text, folder)


def test_ablations_without_other_settings_or_rows_say_no_more_than_what_was_changed(folder):
    alone = ablation("terms")
    alone[alone["setting"] == "both"].to_csv(folder / "ablation_terms.csv", index=False)
    write_csv(folder / "ablation_margins.csv", pd.DataFrame())
    text = page(folder)
    assert "against *both*" not in block(text, "Which of the two terms does it?")
    assert CHANGED["margins"] in block(text, GRID["margins"]["question"])
    unsure = ablation("terms").assign(p=0.5)
    unsure.to_csv(folder / "ablation_terms.csv", index=False)
    assert "(66.8 % [65.8, 67.8]): no difference is sure." in block(page(folder), "Which of the two terms does it?")


def test_questions_of_the_study_are_answered_first(folder):
    first = without_claims(folder).split("\n## ")[0]
    assert "AMC points at the right thing for 69.8 % [68.8, 70.8] of the phrases." in first
    assert "without boxes? **Yes**: AMC is 4.6 points ahead of ALBEF finetuned (65.2 %; intervals apart)." in first
    assert "with a detector? **No**: AMC is 17.5 points behind VMRM (87.3 %; intervals apart)." in first


def test_overlapping_intervals_answer_no_question(folder):
    table = TABLES["table1"].copy()
    table.loc[(table["system"] == "ALBEF finetuned") & (table["concepts"] == "unboxed"), "ci_high"] = 75.0
    table.to_csv(folder / "table1.csv", index=False)
    assert "never had a box? **Not for sure**: AMC is 4.6 points ahead" in without_claims(folder)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "answer"),
    [
        (2.4, 5.5, REPRODUCED, "Yes"),
        (-0.4, 5.5, NOT_REPRODUCED, "Not for sure"),
        (-5.5, -2.4, NOT_REPRODUCED, "No"),
    ],
)
def test_paired_differences_decide_where_they_were_taken(folder, low, high, verdict, answer):
    table = TABLES["table1"].copy()
    table.loc[(table["system"] == "ALBEF finetuned") & (table["concepts"] == "unboxed"), "ci_high"] = 75.0
    table.to_csv(folder / "table1.csv", index=False)
    claim = Claim("AMC", "ALBEF finetuned", NEVER_BOXED).text
    table = TABLES["claims"].astype({"difference": float, "ci_low": float, "ci_high": float})
    table.loc[table["claim"] == claim, ["ci_low", "ci_high", "verdict"]] = [low, high, verdict]
    table.to_csv(folder / "claims.csv", index=False)
    first, ends = page(folder).split("\n## ")[0], f"{low:+.1f} to {high:+.1f}".replace("-", "−")
    said = f"AMC is 4.6 points ahead of ALBEF finetuned (65.2 %; paired {ends})."
    assert f"never had a box? **{answer}**: {said}" in first
    assert "can be above 0\nwhile the intervals of the two accuracies overlap" in first
    results = Results(folder)
    assert results.paired("AMC", "ALBEF finetuned", "referring A", "unboxed") is None


def test_retrieval_names_the_recall_that_the_claims_ask(folder):
    assert "The claims ask recall@10, of which 2 points may be lost." in block(page(folder), "Retrieval and matching")


def test_claims_are_counted_by_their_verdicts(folder):
    said, table = block(page(folder), "Claims, one by one"), TABLES["claims"]
    part = table[table["of"] == "the poster"]
    tested = part[part["verdict"] != "not testable"]
    reproduced = (tested["verdict"] == "reproduced at this scale").sum()
    expected = (
        f"of the poster, {reproduced} of {len(tested)} are reproduced ({len(part) - len(tested)} more cannot be tested)"
    )
    assert expected in said
    assert "| 3.0 [1.5, 4.5] | +7.3 | < 0.001 |" in said


def test_a_changed_number_changes_the_page(folder):
    before = page(folder)
    TABLES["table1"].replace({69.84: 71.26, 70.84: 72.26, 68.84: 70.26}).to_csv(folder / "table1.csv", index=False)
    after = page(folder)
    assert "AMC 71.3 %" in after and "AMC 71.3 %" not in before


@pytest.mark.parametrize("missing", sorted(TABLES))
def test_a_missing_table_leaves_the_rest(folder, missing):
    (folder / f"{missing}.csv").unlink()
    text = page(folder)
    assert f"({missing}.csv)" not in text and f"({missing}.png)" in text
    assert_links_resolve(text, folder)


def test_empty_folder_and_files_that_nobody_knows(tmp_path):
    assert "##" not in page(tmp_path).replace("# Figures", "", 1)
    (tmp_path / "unheard_of.csv").write_text("a\n1\n")
    assert "## Further files\n\n- [unheard_of.csv](unheard_of.csv)" in page(tmp_path)


def test_page_does_not_depend_on_where_the_folder_is(folder, tmp_path_factory):
    copied = tmp_path_factory.mktemp("copy") / "figures"
    shutil.copytree(folder, copied)
    assert page(copied) == page(folder)


# --------------------------------------------------------------------------------------------------------- small parts


def test_leads_in_words(folder):
    results = Results(folder)
    assert results.lead("AMC", "ALBEF") == "9.1 points ahead of ALBEF (60.7 %; paired +1.5 to +4.5)"
    (folder / "claims.csv").unlink()
    assert Results(folder).lead("AMC", "ALBEF") == "9.1 points ahead of ALBEF (60.7 %; intervals apart)"
    assert results.lead("AMC", "nobody") == results.better("AMC", "nobody") == ""
    assert Number(5, 4, 6).is_apart_from(Number(7.5, 6.5, 8)) and not Number(5, 4, 6).is_apart_from(Number(6.5, 6, 7))


def test_tables_as_markdown():
    table = pd.DataFrame(
        {"a_b": ["x", "x", "y"], "c": ["p", "q", "p"], "v": [1.0, 2.0, float("nan")], "low": 0.5, "high": 3.0}
    )
    cells = with_interval(table, "v", ("low", "high"))
    assert list(cells) == ["1.0 [0.5, 3.0]", "2.0 [0.5, 3.0]", "–"]
    assert markdown(across(table, ["a_b"], "c", cells)).splitlines() == [
        "| a b | p | q |",
        "|---|---|---|",
        "| x | 1.0 [0.5, 3.0] | 2.0 [0.5, 3.0] |",
        "| y | – | – |",
    ]
    assert markdown(pd.DataFrame({"taken": [True, False], "n": [0.25, 3.0]})).splitlines()[2:] == [
        "| yes | 0.25 |",
        "|  | 3 |",
    ]


def test_lists_in_words():
    assert [listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
