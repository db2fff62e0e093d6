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

        def record(text, renderer):
            if text.get_text() and text.get_visible():
                texts.append(text)

        with monkeypatch.context() as patched:
            patched.setattr(Text, "draw", record)
            figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        owners = np.full((height, width), -1)
        renderer = RendererAgg(width, height, figure.dpi)
        canvas = np.asarray(renderer.buffer_rgba())
        # Boxes around slanted names overlap where the names do not: compare their ink.
        for index, text in enumerate(texts):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0, f"{text.get_text()!r} is cut off"
            assert box.x1 <= width and box.y1 <= height, f"{text.get_text()!r} is cut off"
            text.draw(renderer)
            near = (
                slice(max(0, int(height - box.y1) - 3), int(height - box.y0) + 3),
                slice(max(0, int(box.x0) - 3), int(box.x1) + 3),
            )
            ink = canvas[near][..., 3] > 0
            canvas[near] = 0
            assert ink.any(), f"{text.get_text()!r} left no ink"
            covered = owners[near][ink].max()
            assert covered < 0, f"{text.get_text()!r} overlaps {texts[covered].get_text()!r}"
            owners[near][ink] = index
        return [text.get_text() for text in texts]

    return check
