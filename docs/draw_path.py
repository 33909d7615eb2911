"""Draw the path of pictures from files to predictions: `python docs/draw_path.py` writes docs/path.svg.

The picture moves in a browser (SVG animation) and stands still elsewhere. It knows nothing of the package.
"""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 960, 300
SECONDS = 6  # of one round
WORKERS = 3
SLOTS = 8
SLOT_X, SLOT_Y, SLOT_WIDTH, SLOT_HEIGHT = 372, 120, 36, 60
BATCH = range(2, 2 + WORKERS)  # the slots of the batch that the model reads
INK, PALE, PAPER = "#1f2933", "#e4e7eb", "#ffffff"
BLUE, GREEN, ORANGE = "#2b6cb0", "#2f855a", "#c05621"


def text(x: float, y: float, words: str, *, size: int = 14, colour: str = INK, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, inside: str = "") -> str:
    head = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{INK}"'
    return f"{head}>{inside}</rect>" if inside else f"{head}/>"


def arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#head)"/>'


def colours_over_time(begin: float) -> str:
    """Animate a slot: free, claimed, ready, taken, free."""
    stops = [(0.0, PALE), (begin, ORANGE), (begin + 0.12, GREEN), (0.6, BLUE), (0.85, PALE), (1.0, PALE)]
    times = ";".join(f"{time:.2f}" for time, _ in stops)
    values = ";".join(colour for _, colour in stops)
    how = f'attributeName="fill" dur="{SECONDS}s" repeatCount="indefinite" calcMode="discrete"'
    return f'<animate {how} keyTimes="{times}" values="{values}"/>'


def worker(number: int) -> list[str]:
    y = 60 + number * 75
    target = SLOT_X + (BATCH.start + number + 0.5) * SLOT_WIDTH
    path = f"M 120 {y + 20} L 190 {y + 20} L 300 {y + 20} L {target} {SLOT_Y + 20}"
    arrives = f"{0.2 + 0.1 * number:.2f}"
    moves = f'dur="{SECONDS}s" repeatCount="indefinite" keyPoints="0;1;1" keyTimes="0;{arrives};1" calcMode="linear"'
    return [
        box(30, y, 80, 40, PAPER),
        text(70, y + 25, f"photo{number}.jpg", size=12),
        arrow(f"M 110 {y + 20} L 186 {y + 20}"),
        box(190, y, 110, 40, PALE),
        text(245, y + 25, "preprocess()", size=13),
        arrow(f"M 300 {y + 20} L {SLOT_X - 8} {SLOT_Y + SLOT_HEIGHT / 2 - 14 + number * 14}"),
        f'<circle r="6" fill="{ORANGE}" visibility="hidden"><set attributeName="visibility" to="visible"/>',
        f'<animateMotion {moves} path="{path}"/></circle>',
    ]


def slot(number: int) -> str:
    begin = 0.2 + 0.1 * (number - BATCH.start)
    inside = colours_over_time(begin) if number in BATCH else ""
    return box(
        SLOT_X + number * SLOT_WIDTH, SLOT_Y, SLOT_WIDTH, SLOT_HEIGHT, GREEN if number in BATCH else PALE, inside
    )


def drawing() -> str:
    first, last = SLOT_X + BATCH.start * SLOT_WIDTH, SLOT_X + BATCH.stop * SLOT_WIDTH
    middle, right = (first + last) / 2, SLOT_X + SLOTS * SLOT_WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">',
        "<title>The path of a picture from its file to a prediction</title>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">',
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        text(70, 36, "files", size=15),
        text(245, 36, "worker processes", size=15),
        text(SLOT_X + SLOTS * SLOT_WIDTH / 2, 36, "slots of a ring in shared memory", size=15),
        text(835, 36, "model process", size=15),
    ]
    for number in range(WORKERS):
        parts += worker(number)
    parts += [slot(number) for number in range(SLOTS)]
    parts += [
        f'<path d="M {first} {SLOT_Y - 10} v -8 H {last} v 8" fill="none" stroke="{BLUE}" stroke-width="2"/>',
        text(middle, SLOT_Y - 26, "one batch: a view, no copy", colour=BLUE),
        arrow(f"M {right + 6} {SLOT_Y + 30} L 766 {SLOT_Y + 30}"),
        box(770, SLOT_Y, 130, SLOT_HEIGHT, PALE),
        text(835, SLOT_Y + 27, "model(batch)"),
        text(835, SLOT_Y + 46, "predictions", size=12, colour=BLUE),
        arrow(f"M 835 {SLOT_Y + SLOT_HEIGHT} V 232 H {middle} V {SLOT_Y + SLOT_HEIGHT + 4}"),
        text((835 + middle) / 2, 250, "the last tensor is gone: the slots are free again", size=13),
    ]
    for number, (colour, word) in enumerate([(PALE, "free"), (ORANGE, "claimed"), (GREEN, "ready"), (BLUE, "taken")]):
        x = 400 + number * 90
        parts += [box(x, 274, 12, 12, colour), text(x + 18, 285, word, size=12, anchor="start")]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("path.svg").write_text(drawing())
