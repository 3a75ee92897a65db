"""Draws docs/figures/latency.svg from latency.json: `python docs/figures/_draw.py`. Needs matplotlib (extra `bench`).

The figures are those of the pages that the JSON names; tests/docs/test_figures.py holds the two together."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOURS = ("#9db4c4", "#2f6690")
OURS = ("#f0b48c", "#c2571a")


def main() -> None:
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "clockworker", "font.size": 9}
    said = json.loads((HERE / "latency.json").read_text())
    figure = Figure(figsize=(9, 3.6), layout="constrained", facecolor="white")
    for axes, panel in zip(figure.subplots(1, 2), said["panels"], strict=True):
        rows = panel["rows"]
        for number, series in enumerate(panel["series"]):
            places = [row + (number - 0.5) * 0.36 for row in range(len(rows))]
            values = [row["values"][number] for row in rows]
            colours = [(OURS if row == 0 else COLOURS)[number] for row in range(len(rows))]
            bars = axes.barh(places, values, height=0.34, color=colours, label=series)
            axes.bar_label(bars, fmt="{:,g}", padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlim(0.5, 4 * max(value for row in rows for value in row["values"]))
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.set_title(panel["title"], fontsize=9, loc="right")
        axes.set_xlabel("pale: {}; dark: {}".format(*panel["series"]), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "latency.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
