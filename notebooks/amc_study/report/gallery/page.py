"""The page put together: for each entry a caption, pictures, a table, and how it was made."""

from __future__ import annotations

from pathlib import Path

from amc_lib.files import ROOT
from amc_study.report.gallery import captions
from amc_study.report.gallery.results import Results, listed, markdown
from amc_study.report.gallery.sections import SECTIONS, Entry

PAGE = "README.md"
MOST_ROWS = 16  # of a table that is shown as it is; longer ones are linked
PICTURES = ("gif", "png")  # kinds that the page shows
KINDS = (*PICTURES, "svg", "pdf", "csv", "safetensors")  # in the order in which files are listed
MADE_BY = "python -m amc_study.report.gallery"


def page(folder: Path) -> str:
    """The Markdown of figures/README.md for the files of `folder`."""
    results = Results(folder)
    shown = [(section, [e for e in section.entries if _files(e, results)]) for section in SECTIONS]
    shown = [(section, entries) for section, entries in shown if entries]
    left = _left_over(results, [entry for _, entries in shown for entry in entries])
    titles = [section.title for section, _ in shown] + (["Further files"] if left else [])
    parts = [
        "# Figures: what was done, and what came out",
        f"*This page is put together by `{MADE_BY}`; all numbers in it are read from the files beside it.*",
        captions.introduction(results),
        "\n".join(f"- [{title}](#{anchor(title)})" for title in titles),
    ]
    for section, entries in shown:
        parts += [f"## {section.title}", *([section.introduction(results)] if section.introduction else [])]
        parts += [_block(entry, results) for entry in entries]
    if left:
        parts += ["## Further files", "\n".join(f"- {_link(name)}" for name in left)]
    return "\n\n".join(parts) + "\n"


def anchor(title: str) -> str:
    """What GitHub makes of a heading for links to it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _block(entry: Entry, results: Results) -> str:
    files = _files(entry, results)
    complete = all(results.table(stem) is not None for stem in entry.needs)
    parts = [f"### {entry.title}", entry.caption(results) if complete else ""]
    parts += [f"![{entry.title}]({name})" for name in files if name.rpartition(".")[2] in PICTURES]
    parts += [_rows(entry, results) if complete else "", _made(entry, results, files)]
    return "\n\n".join(part for part in parts if part)


def _rows(entry: Entry, results: Results) -> str:
    """The entry's own tables, or its csv files as they are where they are small."""
    if entry.rows is not None:
        return entry.rows(results)
    tables = [results.table(stem) for stem in entry.stems]
    return "\n\n".join(markdown(table) for table in tables if table is not None and len(table) <= MOST_ROWS)


def _made(entry: Entry, results: Results, files: list[str]) -> str:
    """By what, at which commit, with which seeds; links to settings and files."""
    account_name = entry.account or entry.stems[0]
    account = results.account(account_name)
    said = [f"Made by {_maker(entry.made_by)}"]
    if account:
        changed = ", with changes not committed" if account.get("dirty") else ""
        said.append(f"commit `{(account['commit'] or 'unknown')[:7]}`{changed}, {account['date'][:10]}")
        said.append(f"seed {account['seed']}")
    seeds = _seeds(entry, results)
    said += [seeds] if seeds else []
    said += [f"settings and versions: {_link(f'{account_name}.json')}"] if account else []
    links = []
    for name in files:
        table = results.table(name[:-4]) if name.endswith(".csv") else None
        rows = "" if table is None else f" ({len(table)} row{'s' if len(table) != 1 else ''})"
        links.append(f"{_link(name)}{rows}")
    return f"<sub>{'; '.join(said)}. Files: {', '.join(links)}.</sub>"


def _seeds(entry: Entry, results: Results) -> str:
    """Over how many training seeds the numbers of its tables go."""
    tables = [results.table(stem) for stem in entry.stems]
    seeds = {int(n) for table in tables if table is not None and "seeds" in table for n in table["seeds"].dropna()}
    return (
        f"means of {listed([str(n) for n in sorted(seeds)])} training seed{'s' if max(seeds) > 1 else ''}"
        if seeds
        else ""
    )


def _maker(name: str) -> str:
    """A notebook as a link, where it is there; a command as it is typed."""
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    return f"[{name}](../notebooks/{name}.ipynb)" if notebook.is_file() else f"`{name}`"


def _files(entry: Entry, results: Results) -> list[str]:
    return [f"{stem}.{kind}" for kind in KINDS for stem in entry.stems if results.has(f"{stem}.{kind}")]


def _left_over(results: Results, entries: list[Entry]) -> list[str]:
    """Files that no entry speaks of."""
    known = {name for entry in entries for name in _files(entry, results)} | {PAGE}
    known |= {f"{stem}.json" for entry in entries for stem in (*entry.stems, entry.account)}
    return sorted(path.name for path in results.folder.iterdir() if path.is_file() and path.name not in known)


def _link(name: str) -> str:
    return f"[{name}]({name})"
