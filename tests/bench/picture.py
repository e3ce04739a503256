# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of growth over peers."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt


def draw(series: Mapping[str, Sequence[t.Sequence[float]]], path: Path) -> None:
    # The same figures make the same file.
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "flatnet"
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for label, points in series.items():
        axes.plot(
            [peers for peers, _seconds in points],
            [seconds for _peers, seconds in points],
            marker="o",
            markersize=4,
            label=label.replace("`", ""),
        )
    axes.set_xlabel("peers")
    axes.set_ylabel("seconds (median)")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:,.0f}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
