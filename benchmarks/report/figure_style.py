"""The style of the pictures: a white card that is readable on light and dark pages, with RingFeed in warm colours.

Peers have cold colours and limits are dashed grey. A peer that is never the best is pale. Markers differ too, so that
no reader depends on colours. Text is drawn as paths and looks the same everywhere. The same data gives the same bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from measuring.rounds import Role
from report.units import tick

INK, FAINT, RULE, PALE, PAPER = "#24292f", "#57606a", "#e3e6ea", "#c4c9cf", "#ffffff"
WARM = ("#c8370a", "#f0801a", "#8c2d04", "#e0a000")
COLD = ("#0072b2", "#009e73", "#6a51a3", "#56a8d8", "#5f6b76", "#1b3f66", "#5c9a1e", "#a6559d", "#00747a")
GREY = ("#24292f", "#8a939c", "#57606a")
DISTINCT = ("#c8370a", "#0072b2", "#009e73", "#f0a020", "#6a51a3", "#56b4e9", "#a6559d", "#8a939c", "#1b3f66")
MARKERS = "osD^vP<X>"
DASHES = ("--", ":", "-.")
WIDTH, MARGIN, HEADLINE = 9.2, 0.12, 0.6  # inches
LEGEND_CHARACTERS, SIGN_CHARACTERS = 118, 9  # of a line below a picture; of a legend's sign and gap
PANELS = 4  # side by side; more would be too narrow
DRAWN_FIRST = ("limit", "peer", "ringfeed")  # the last role lies on top

SETTINGS = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.labelcolor": FAINT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "font.family": "DejaVu Sans",  # part of matplotlib
    "font.size": 9.5,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "ringfeed",  # without it, identifiers differ from file to file
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


@dataclass(frozen=True)
class Style:
    """The style of one way in all panels of a picture."""

    role: Role
    color: str
    marker: str
    dashes: str
    is_pale: bool = False

    @property
    def line(self) -> dict[str, Any]:
        if self.is_pale:
            return {"color": PALE, "linestyle": "-", "linewidth": 1.0, "zorder": 1.5}
        strong = self.role == "ringfeed"
        return {
            "color": self.color,
            "linestyle": self.dashes,
            "linewidth": 2.6 if strong else 1.4,
            "marker": "" if self.role == "limit" else self.marker,
            "markersize": 6 if strong else 4.5,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.6,
            "zorder": 2 + DRAWN_FIRST.index(self.role),
        }

    @property
    def weight(self) -> str:
        return "bold" if self.role == "ringfeed" else "normal"


def styles(roles: Mapping[str, Role]) -> dict[str, Style]:
    """Return a style for each way. Ways of one role differ in colour, and in marker or dashes.

    If only RingFeed is in the picture, its ways get more distinct colours.
    """
    colors = {"ringfeed": WARM if {*roles.values()} != {"ringfeed"} else DISTINCT, "peer": COLD, "limit": GREY}
    found: dict[str, Style] = {}
    for role in ("ringfeed", "peer", "limit"):
        for number, way in enumerate(way for way, its_role in roles.items() if its_role == role):
            color = colors[role][number % len(colors[role])]
            marker = MARKERS[(number + number // len(colors[role])) % len(MARKERS)]
            found[way] = Style(role, color, marker, DASHES[number % len(DASHES)] if role == "limit" else "-")
    return found


def pale_but(drawn: Mapping[str, Style], shown: Container[str]) -> dict[str, Style]:
    """Return the styles with unnamed peers in pale; the named peers get the first colours."""
    pale = {way for way, style in drawn.items() if style.role == "peer" and way not in shown}
    strong = styles({way: style.role for way, style in drawn.items() if way not in pale})
    return {way: replace(style, is_pale=True) if way in pale else strong[way] for way, style in drawn.items()}


def name_pale(figure: Figure, drawn: Mapping[str, Style]) -> None:
    """Name the ways of the pale lines below the picture."""
    pale = [way for way, style in drawn.items() if style.is_pale]
    if pale:
        words = textwrap.fill(f"grey, best at no size: {'; '.join(pale)}", LEGEND_CHARACTERS)
        figure.supxlabel(words, x=MARGIN / WIDTH, ha="left", fontsize=8.5, color=FAINT)


def distinct(names: Sequence[str]) -> dict[str, str]:
    """Return a colour of equal strength for each name."""
    return {name: DISTINCT[number % len(DISTINCT)] for number, name in enumerate(names)}


# ---- Figures and axes --------------------------------------------------------------------------------


def card(
    title: str, words: str, panels: int = 1, *, columns: int = PANELS, height: float = 4.6, share_y: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty picture with a headline, a line that explains it, and its panels."""
    columns = min(panels, columns)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(9.2, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y).flatten()
    for spare in axes[panels:]:
        spare.remove()
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADLINE / height))
    figure.text(MARGIN / WIDTH, 1 - MARGIN / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(MARGIN / WIDTH, 1 - (MARGIN + 0.27) / height, words, va="top", fontsize=9.5, color=FAINT)
    return figure, axes[:panels]


def warn(figure: Figure, words: str) -> None:
    """Write a warning into the upper right corner."""
    height = figure.get_figheight()
    figure.text(1 - MARGIN / WIDTH, 1 - MARGIN / height, words, ha="right", va="top", fontsize=9.5, color=WARM[0])


def save(figure: Figure, path: Path) -> None:
    """Write an SVG file without a date or a version in it."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def settings() -> Any:
    """Return the context for drawing: matplotlib's defaults and this style, regardless of the user's settings."""
    return mpl.rc_context({**mpl.rcParamsDefault, **SETTINGS})


def measured_at(axes: Axes, values: Iterable[float], name: Callable[[float], str], room: float = 0.09) -> None:
    """Make x logarithmic, with ticks at the measured values; each label needs `room`, a part of the axis."""
    values = sorted(set(values))
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    least = (right / left) ** room
    shown = [values[0]]
    for value in values[1:-1]:
        if value >= shown[-1] * least and value * least <= values[-1]:
            shown.append(value)
    axes.xaxis.set_major_locator(FixedLocator([*shown, values[-1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))


def logarithmic_up(axes: Axes, name: Callable[[float], str]) -> None:
    """Make y logarithmic, with ticks at the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    named_up(axes, name)


def named_up(axes: Axes, name: Callable[[float], str]) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))


def seconds_up(axes: Axes) -> None:
    """Make y a logarithmic axis of seconds."""
    logarithmic_up(axes, lambda value: tick(value, "s"))


def show_growth(axes: Axes, numbers: Sequence[float], costs: Sequence[float]) -> None:
    """Make both axes logarithmic, with equal decades in a square; dotted lines at 45 degrees show linear growth."""
    sides = [(math.log10(min(values)), math.log10(max(values))) for values in (numbers, costs)]
    half = max(high - low for low, high in sides) / 2 * 1.15
    (left, right), (bottom, top) = ((middle - half, middle + half) for middle in (sum(side) / 2 for side in sides))
    axes.set(xscale="log", yscale="log", xlim=(10**left, 10**right), ylim=(10**bottom, 10**top), box_aspect=1)
    for start in range(math.floor(bottom - 2 * half), math.ceil(top)):
        ends = start, start + right - left
        axes.plot(
            (10**left, 10**right), [10**end for end in ends], color=GREY[1], linestyle=":", linewidth=0.9, zorder=1
        )


def ink_on(color: str) -> str:
    """Return a readable text colour for a background: paper on dark colours, ink on light ones."""
    red, green, blue = to_rgb(color)
    return PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


# ---- Names -------------------------------------------------------------------------------------------


def name_ways(figure: Figure, all_axes: Sequence[Axes], drawn: Mapping[str, Style]) -> None:
    """Name the ways at the ends of their lines, or below the panels if there are several."""
    if len(all_axes) == 1:
        name_ends(figure, all_axes[0], drawn)
    else:
        legend(figure, drawn)


def name_ends(figure: Figure, axes: Axes, drawn: Mapping[str, Style]) -> None:
    """Write each line's name beside its right end; names of lines that end close together move apart."""
    figure.draw_without_rendering()  # the axes have their final positions only after a layout
    to_axes = axes.transAxes.inverted()
    ends = {}
    for line in axes.get_lines():
        if line.get_label() in drawn and not drawn[line.get_label()].is_pale:
            x, y = line.get_xydata()[-1]
            ends[line.get_label()] = to_axes.transform(axes.transData.transform((x, y)))
    gap = 13.5 * figure.dpi / 72 / axes.get_window_extent().height
    ways = sorted(ends, key=lambda way: ends[way][1])
    for way, place in zip(ways, spread([ends[way][1] for way in ways], gap, 1.0), strict=True):
        axes.annotate(
            way,
            xy=ends[way],
            xytext=(1.035, place),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            color=drawn[way].color,
            fontweight=drawn[way].weight,
            arrowprops={
                "arrowstyle": "-",
                "color": drawn[way].color,
                "linewidth": 0.7,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
        )


def spread(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Move sorted positions apart to at least `gap`, by as little as possible, between 0 and `top`.

    Positions that are too close form a group around their common mean (the pool-adjacent-violators algorithm).
    """
    clusters: list[tuple[float, int]] = []
    for place in places:
        middle, count = place, 1
        while True:
            half = gap * (count - 1) / 2
            middle = max(half, min(middle, top - half))
            if not clusters or middle - clusters[-1][0] >= gap * (count + clusters[-1][1]) / 2:
                break
            before, others = clusters.pop()
            middle = (middle * count + before * others) / (count + others)
            count += others
        clusters.append((middle, count))
    return [middle + gap * (number - (count - 1) / 2) for middle, count in clusters for number in range(count)]


def legend(figure: Figure, drawn: Mapping[str, Style], most_columns: int = 3) -> None:
    """Name the ways of all panels below them, with RingFeed's in bold, in as many columns as fit."""
    columns = next(count for count in range(most_columns, 0, -1) if count == 1 or _fits(list(drawn), count))
    handles = [mpl.lines.Line2D([], [], label=way, **style.line) for way, style in drawn.items()]
    made = figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=9, handlelength=2.4)
    for text, style in zip(made.get_texts(), drawn.values(), strict=True):
        text.set_fontweight(style.weight)


def _fits(names: Sequence[str], columns: int) -> bool:
    """Whether names fit into columns, which are filled one after the other and are as wide as their longest name."""
    widths = (max(map(len, column)) for column in np.array_split(names, columns) if len(column))
    return sum(width + SIGN_CHARACTERS for width in widths) <= LEGEND_CHARACTERS
