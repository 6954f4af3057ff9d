"""What every figure must pass: its texts stay on the page and off each other."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that drawing the figure really draws (a tick beyond the limits keeps a label that is not)."""
    texts, draw = [], Text.draw

    def record(text, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            texts.append(text)
        return draw(text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return list(dict.fromkeys(texts))


def assert_texts_are_legible(figure: Figure) -> list[str]:
    """No drawn text touches another, none leaves the figure; returns what they say."""
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    for name, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, name
    for (first, box), (second, other) in combinations(boxes, 2):
        width = min(box.x1, other.x1) - max(box.x0, other.x0)
        height = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert width <= 0 or height <= 0, f"{first!r} overlaps {second!r}"
    return [name for name, _ in boxes]
