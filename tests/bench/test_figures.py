import io

import pytest
from made_results import plain_row, record, row
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from conflayers.bench import figures, figures_drafts
from conflayers.bench.curves import stream
from conflayers.bench.look import LIGHT, Look, png, short, styles, wrapped

NAMES = [f"_method{index}:an_option=some_long_value:another_option={'x' * 40}:n={index}" for index in range(12)]


def test_a_script_that_the_font_lacks_is_no_error():
    figure = figures_drafts.acceptance_by_position(Look(LIGHT, styles(["日本"])), [row("日本")])
    Image.open(io.BytesIO(png(figure))).verify()


def test_every_method_has_one_look_and_no_two_the_same():
    found = styles(["vanilla", "hf", *NAMES])
    assert len({(style.colour, style.marker) for style in found.values()}) == 14
    assert len({(style.colour, style.hatch) for style in found.values()}) == 14
    assert styles(["hf", *NAMES])[NAMES[3]] == found[NAMES[3]]


@pytest.mark.parametrize(
    "draw",
    [figures.by_category, figures.by_phase, figures_drafts.accepted_lengths, figures_drafts.acceptance_by_position],
)
def test_long_names_do_not_overlap(draw):
    rows = [row(name, category) for category in ("all", "a" * 80, "b c d" * 9) for name in NAMES]
    figure = draw(Look(LIGHT, styles(NAMES)), rows)
    Image.open(io.BytesIO(png(figure))).verify()
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for panel in figure.axes:
        ticks = [panel.xaxis, *panel.xaxis.get_major_ticks()], [panel.yaxis, *panel.yaxis.get_major_ticks()]
        texts += [panel.title]
        for axis, *some in ticks:
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in some if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 12
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert not [other for other in boxes[:index] if box.overlaps(other)]


def test_the_stream_marks_data_sets_repeats_and_ends_of_search():
    made = [record(m, s, t, repeat=r) for r in (0, 1) for s in range(3) for m, t in (("vanilla", 2.0), ("m", 1.0))]
    for one, plan in zip((one for one in made if one.method == "m"), "abbabb", strict=True):
        one.plan = plan
    figure = figures.along_stream(Look(LIGHT, styles(["m"])), stream(made, [6]))
    panel = figure.axes[0]
    words = {text.get_text().strip() for text in panel.texts}
    assert words == {"repeat 1", "repeat 2", "questions", "code", "interrupted"}
    upright = sorted(
        {line.get_xdata()[0] for line in panel.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())}
    )
    assert upright == [2.5, 3.5, 5.5]
    marks = [line for line in panel.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in marks] == [[2, 5]]
    assert list(marks[0].get_ydata()) == [2.0, 2.0]


def test_bars_and_phases_have_the_numbers_of_the_rows():
    look = Look(LIGHT, styles(["m"]))
    bars = figures.by_category(look, [plain_row(), row("m"), row("m", "code", speedup=0.9)]).axes[0].patches
    assert sorted({bar.get_height() for bar in bars}) == [0.9, 1.5]
    phases = figures.by_phase(look, [plain_row(), row("m")]).axes[0].patches
    # Milliseconds for each of 300 tokens: prefill, draft, verify, select and other, plain decoding's first.
    assert [bar.get_width() for bar in phases] == pytest.approx([1, 1, 0, 7, 28, 8, 0, 2, 1, 2])


def test_names_are_shortened_in_the_middle_and_broken_at_colons():
    assert short("a" * 30 + "b" * 40) == "a" * 19 + "…" + "b" * 40
    assert short(" a\nb\x1b ") == "a b"
    assert wrapped("conflayers:variant=rule:lam=-0.2", 24) == "conflayers:variant=rule:\nlam=-0.2"
    assert wrapped("x" * 12, 5) == "xxxxx\nxxxxx\nxx"
