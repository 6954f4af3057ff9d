"""Ask a checkpoint where a phrase is: python -m amc_lib PICTURE "PHRASE" [-o overlay.png] [--json]."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from amc_lib.grounder import DEFAULT_CHECKPOINT, Grounder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_lib", description="Where in a picture is a phrase?")
    parser.add_argument("picture", help="path of an image file")
    parser.add_argument("phrase", help="what to look for, such as 'red helicopter'")
    parser.add_argument("-c", "--checkpoint", default=DEFAULT_CHECKPOINT, help="default: %(default)s")
    parser.add_argument("-o", "--output", help="write the picture under its heatmap to this file")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args(arguments)
    try:
        grounding = Grounder.load(given.checkpoint).ground(given.picture, given.phrase)
        if given.output:
            grounding.overlay().save(given.output)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    (x, y), unknown = grounding.point, grounding.unknown_words
    if given.json:
        print(json.dumps({"point": [x, y], "score": grounding.score, "unknown_words": unknown}))
        return
    print(f"{given.phrase!r} is at x {x}, y {y}; probability of a match {grounding.score:.2f}")
    if unknown:
        print(f"words that the checkpoint does not know: {', '.join(unknown)}")


if __name__ == "__main__":
    main()
