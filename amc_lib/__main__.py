"""Ask a checkpoint where phrases are: python -m amc_lib PICTURE "PHRASE" [-o overlay.png] [--json].

Several pictures and phrases: python -m amc_lib one.jpg two.jpg "a dog" "a red ball" asks both pictures for both. The
first argument is a picture and the last a phrase, whatever their names; one between them is a picture if it stands
before all phrases and ends like a picture (.jpg) or is a file.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amc_lib.datasets.image_files import ENDINGS, UnreadableImageError
from amc_lib.presets import DEFAULT_CHECKPOINT

if TYPE_CHECKING:
    from amc_lib.grounder import Grounder
    from amc_lib.grounding import Grounding


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m amc_lib",
        usage='%(prog)s [options] PICTURE [PICTURE ...] "PHRASE" ["PHRASE" ...]',
        description="Where in a picture is a phrase?",
    )
    parser.add_argument(
        "asked", nargs="+", metavar="PICTURE, PHRASE", help="image files, then what to look for in each"
    )
    parser.add_argument("-c", "--checkpoint", default=DEFAULT_CHECKPOINT, help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="write the picture under its heatmap; NAME-k.png if several")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each answer")
    given = parser.parse_intermixed_args(arguments)
    try:
        pictures, phrases = pictures_and_phrases(given.asked)
        if given.output and given.output.suffix.lower() not in ENDINGS:
            raise ValueError(f"-o {given.output}: must end in one of {' '.join(ENDINGS)}")
        from amc_lib.grounder import Grounder  # here: torch takes seconds to import, and --help needs none

        grounder = Grounder.load(given.checkpoint, device=given.device)
        unread = ask(grounder, pictures, phrases, given.output, given.json)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if unread:
        sys.exit("\n".join(unread))


def ask(
    grounder: Grounder, pictures: Sequence[str], phrases: Sequence[str], output: Path | None, as_json: bool
) -> list[str]:
    """Print the answers, picture by picture. Returns a sentence for each picture that could not be read."""
    unread = []
    for i, picture in enumerate(pictures):
        try:
            groundings = grounder.ground(picture, phrases)
        except UnreadableImageError as error:
            unread.append(str(error))
            continue
        for k, grounding in enumerate(groundings, start=1 + i * len(phrases)):
            answer = {"picture": picture, **content(grounding, grounder.seen)}
            if output and not grounding.unknown:
                single = len(pictures) * len(phrases) == 1
                file = output if single else output.with_stem(f"{output.stem}-{k}")
                grounding.save(file)
                answer["overlay"] = str(file)
            print(json.dumps(answer) if as_json else sentence(answer), flush=True)
    return unread


def content(grounding: Grounding, seen: str) -> dict[str, Any]:
    """An answer as JSON holds it: point (x, y), box xyxy, score, presence; null for an unknown phrase.

    seen: what the checkpoint was trained on.
    """
    known = not grounding.unknown
    return {
        "phrase": grounding.phrase,
        "point": grounding.point if known else None,
        "box": grounding.box() if known else None,
        "score": grounding.score if known else None,
        "present": grounding.present if known else None,
        "unknown": grounding.unknown,
        "unknown_words": grounding.unknown_words,
        "unread_words": grounding.unread_words,
        "seen": seen,
    }


def sentence(answer: dict[str, Any]) -> str:
    """The same as text."""
    asked = f"{answer['picture']}: {answer['phrase']!r}"
    if answer["unknown"]:
        lines = [f"{asked} is unknown: the checkpoint knows no word of it (it has seen {answer['seen']})"]
    else:
        (x, y), (x1, y1, x2, y2) = answer["point"], answer["box"]
        found = f"is at x {x}, y {y}, in the box from x {x1}, y {y1} to x {x2}, y {y2}"
        presence = {None: "", True: ", probably in the picture", False: ", probably not in the picture"}
        lines = [f"{asked} {found}; match score {answer['score']:.2f}{presence[answer['present']]}"]
        if answer["unknown_words"]:
            lines.append(f"words that the checkpoint does not know: {', '.join(answer['unknown_words'])}")
    if answer["unread_words"]:
        lines.append(f"the phrase is longer than is read; its end was left out: {' '.join(answer['unread_words'])}")
    return "\n".join(lines)


def pictures_and_phrases(asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the command line asks: one or more of each. ValueError where a picture stands after a phrase."""
    if len(asked) < 2:
        raise ValueError(f"a picture and a phrase are needed, not {asked[0]!r} alone")
    first, *between, last = asked
    count = next((i for i, text in enumerate(between) if not is_picture(text)), len(between))
    pictures, phrases = [first, *between[:count]], [*between[count:], last]
    for text in phrases:
        if text.lower().endswith(ENDINGS):
            raise ValueError(f"{text!r} looks like a picture, but pictures come first and then phrases")
    return pictures, phrases


def is_picture(text: str) -> bool:
    return text.lower().endswith(ENDINGS) or Path(text).is_file()


if __name__ == "__main__":
    gc.set_threshold(100_000)  # importing torch makes some 400,000 objects that stay: looking for garbage among them
    atexit.register(gc.freeze)  # again and again, and once more at the end, takes a fifth of the time of one answer
    main()
