"""What a person would see: every text that is really drawn, and its ink."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.text import Text


@pytest.fixture
def assert_readable(monkeypatch):
    """Checks that no text of a figure is cut off and that no two texts share a pixel."""

    def check(figure):
        texts = []
        draw = Text.draw

        def recording_draw(self, renderer):
            if self.get_text():
                texts.append(self)
            draw(self, renderer)

        with monkeypatch.context() as patched:
            patched.setattr(Text, "draw", recording_draw)
            figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        owner = np.full((height, width), -1)
        # Boxes around slanted names overlap where the names do not: compare their ink.
        for index, text in enumerate(texts):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0, f"{text.get_text()!r} is cut off"
            assert box.x1 <= width and box.y1 <= height, f"{text.get_text()!r} is cut off"
            renderer = RendererAgg(width, height, figure.dpi)
            text.draw(renderer)
            ink = np.asarray(renderer.buffer_rgba())[..., 3] > 0
            assert ink.any(), f"{text.get_text()!r} left no ink"
            others = owner[ink][owner[ink] >= 0]
            assert others.size == 0, f"{text.get_text()!r} overlaps {texts[others[0]].get_text()!r}"
            owner[ink] = index
        return [text.get_text() for text in texts]

    return check
