"""A page in the browser on which anyone's picture is asked: python -m amc_lib.page [CHECKPOINT ...] [--port N].

Each checkpoint answers in a column of its own, by default ALBEF beside AMC. Needs gradio, an optional extra
(pip install -e '.[page]'); pictures stay on this machine.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from amc_lib.__main__ import content, sentence
from amc_lib.files import SHIPPED_DATA
from amc_lib.grounder import DEFAULT_CHECKPOINT, Grounder

if TYPE_CHECKING:
    import gradio

CHECKPOINTS = ("albef-photos", DEFAULT_CHECKPOINT)
EXAMPLES = (
    ("astronaut.jpg", "an orange space suit"),
    ("officer.jpg", "a black and white hat"),
    ("coffee.jpg", "a silver spoon"),
)  # of the photographs that are shipped
FONTS = ["system-ui", "sans-serif"]  # the theme's own would be fetched from the internet
HEIGHT = 420  # of the uploaded picture, pixels of the screen
KEPT = 3600  # seconds that gradio keeps an uploaded picture


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_lib.page", description="Where in your picture is a phrase?")
    parser.add_argument(
        "checkpoints", nargs="*", default=CHECKPOINTS, help=f"runs or names; default: {' '.join(CHECKPOINTS)}"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    given = parser.parse_args(arguments)
    try:
        import gradio
    except ImportError:
        sys.exit("the page needs gradio: pip install -e '.[page]'")
    try:
        blocks = page({name: Grounder.load(name) for name in given.checkpoints})
        blocks.launch(server_port=given.port, theme=gradio.themes.Default(font=FONTS, font_mono=["monospace"]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def page(grounders: Mapping[str, Grounder]) -> gradio.Blocks:
    """A picture and a phrase above; below, for each checkpoint, the picture under its heatmap and a sentence."""
    import gradio

    with gradio.Blocks(title="Where is it?", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gradio.Markdown("# Where is it?\nA picture, a phrase, and where each model looks to say that they match.")
        with gradio.Row():
            picture = gradio.Image(type="pil", image_mode=None, label="picture", height=HEIGHT)
            with gradio.Column():
                phrase = gradio.Textbox(label="phrase", placeholder="a brown dog", submit_btn="ask")
                rows = [[str(SHIPPED_DATA / "photographs" / name), text] for name, text in EXAMPLES]
                gradio.Examples(rows, [picture, phrase])
        outputs = []
        with gradio.Row():
            for name in grounders:
                with gradio.Column():
                    outputs += [gradio.Image(label=name, format="png", interactive=False), gradio.HTML()]
        phrase.submit(answering(grounders), [picture, phrase], outputs, api_name="ask")
    return blocks


def answering(
    grounders: Mapping[str, Grounder],
) -> Callable[[Image.Image | None, str], list[Image.Image | str | None]]:
    """The function behind the button: of a picture and a phrase, for each checkpoint an overlay and an answer as HTML.

    What cannot be asked is said on the page (gradio.Error). Of an unknown phrase there is no overlay.
    """
    import gradio

    def ask(picture: Image.Image | None, phrase: str) -> list[Image.Image | str | None]:
        if picture is None:
            raise gradio.Error("there is no picture yet")
        shown: list[Image.Image | str | None] = []
        for name, grounder in grounders.items():
            try:
                grounding = grounder.ground(picture, phrase)
            except ValueError as error:
                raise gradio.Error(str(error)) from error
            said = sentence({"picture": name, **content(grounding, grounder.seen)})
            shown += [None if grounding.unknown else grounding.overlay(), html.escape(said).replace("\n", "<br>")]
        return shown

    return ask


if __name__ == "__main__":
    main()
