"""Small plots drawn with Pillow: histograms, a heat map, a reliability diagram."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (720, 440)
MARGIN = (70, 24, 24, 56)  # left, top, right, bottom of the frame, in pixels
INK, PAPER, FAINT = (32, 32, 32), (255, 255, 255), (208, 208, 208)
# Colours that people of any colour vision tell apart (Okabe and Ito 2008).
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167))
# Dark to bright in equal steps of lightness, from blue over green to yellow.
HEAT = np.array([(30, 20, 80), (50, 90, 140), (40, 150, 130), (130, 200, 80), (250, 230, 60)], dtype=np.float64)


class Plot:
    """A frame with ticks, and the map from data to pixels.

    Args:
        x: lowest and highest value of the horizontal axis.
        y: lowest and highest value of the vertical axis.
        labels: what the two axes are.
        legend_left: whether the legend stands on the left.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str], legend_left: bool = False
    ):
        self.legend_left = legend_left
        self.image = Image.new("RGB", SIZE, PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default()
        self.x, self.y = widened(*x), widened(*y)
        left, top = MARGIN[:2]
        right, bottom = SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]
        for value in ticks(*self.x):
            at = self.place(value, self.y[0])[0]
            self.draw.line([(at, top), (at, bottom)], FAINT)
            self.draw.text((at, bottom + 6), f"{value:g}", INK, self.font, anchor="ma")
        for value in ticks(*self.y):
            at = self.place(self.x[0], value)[1]
            self.draw.line([(left, at), (right, at)], FAINT)
            self.draw.text((left - 6, at), f"{value:g}", INK, self.font, anchor="rm")
        self.draw.rectangle([left, top, right, bottom], outline=INK)
        self.draw.text(((left + right) / 2, SIZE[1] - 10), labels[0], INK, self.font, anchor="ms")
        self.draw.text((left, top - 6), labels[1], INK, self.font, anchor="ls")
        self.legend = 0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel (right, down) of a point."""
        left, top, right, bottom = MARGIN
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (SIZE[0] - left - right), SIZE[1] - bottom - up * (SIZE[1] - top - bottom)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], name: str = "") -> None:
        """Draw a line through points, with an entry in the legend where it has a name."""
        self.draw.line([self.place(*point) for point in points], colour, 2, joint="curve")
        if name:
            at = MARGIN[0] + 12 if self.legend_left else SIZE[0] - MARGIN[2] - 30
            top = MARGIN[1] + 14 + 16 * self.legend
            self.draw.line([(at, top), (at + 18, top)], colour, 3)
            beside, anchor = (at + 24, "lm") if self.legend_left else (at - 6, "rm")
            self.draw.text((beside, top), name, INK, self.font, anchor=anchor)
            self.legend += 1


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at most ``most`` of them."""
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    step = next(f * power for f in (1, 2, 5, 10) if (high - low) / (f * power) <= most - 1)
    first = np.ceil(low / step - 1e-9)
    return [float(round(k * step, 12)) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def histogram_picture(values: Mapping[str, np.ndarray], axis: str, bins: int = 40) -> Image.Image:
    """Return histograms over one axis, each of area 1 so that parts of any size compare.

    Args:
        values: numbers (N,) by name.
        axis: what they are.
        bins: number of bins.
    """
    everything = np.concatenate(list(values.values()))
    low, high = widened(float(everything.min()), float(everything.max()))
    edges = np.linspace(low, high, bins + 1)
    heights = {name: np.histogram(own, edges, density=True)[0] for name, own in values.items()}
    plot = Plot((low, high), (0, max(float(h.max()) for h in heights.values()) * 1.05), (axis, "density"))
    for (name, height), colour in zip(heights.items(), COLOURS, strict=False):
        across: np.ndarray = np.repeat(edges, 2)
        up: np.ndarray = np.concatenate([[0], np.repeat(height, 2), [0]])
        plot.line(list(zip(across.tolist(), up.tolist(), strict=True)), colour, f"{name} ({len(values[name])})")
    return plot.image


def reliability_picture(confidence: np.ndarray, hits: np.ndarray, share: np.ndarray, error: float) -> Image.Image:
    """Return shares of hits over confidence, beside the diagonal of a calibrated model; bars are shares of predictions.

    Args:
        confidence: mean confidence of each bin.
        hits: share of its predictions that were right.
        share: of all predictions.
        error: expected calibration error, for the legend.
    """
    plot = Plot(
        (0, 1), (0, 1), ("confidence in the most probable level", "share of pixels that have it"), legend_left=True
    )
    for x, height in zip(confidence.tolist(), share.tolist(), strict=True):
        left, top = plot.place(x - 0.015, height)
        right, bottom = plot.place(x + 0.015, 0)
        plot.draw.rectangle([left, top, right, bottom], FAINT)
    plot.line([(0, 0), (1, 1)], INK, "calibrated")
    points = list(zip(confidence.tolist(), hits.tolist(), strict=True))
    plot.line(points, COLOURS[0], f"model, error {error:.3g}")
    for point in points:
        right, down = plot.place(*point)
        plot.draw.ellipse([right - 3, down - 3, right + 3, down + 3], COLOURS[0])
    return plot.image


def heat_picture(values: np.ndarray, unit: str, width: int = 256) -> Image.Image:
    """Return a map of values (C, H, W), channels side by side, with its range written below.

    Args:
        values: what to show.
        unit: what the values are in.
        width: smallest width of a channel, in pixels.
    """
    low, high = widened(float(values.min()), float(values.max()))
    factor = max(1, -(-width // values.shape[-1]))
    border = 8
    panels = [colours((channel - low) / (high - low)).repeat(factor, 0).repeat(factor, 1) for channel in values]
    framed = [np.pad(panel, ((border, border), (0, border), (0, 0)), constant_values=255) for panel in panels]
    sheet = np.pad(np.concatenate(framed, axis=1), ((0, 0), (border, 0), (0, 0)), constant_values=255)
    picture = Image.new("RGB", (sheet.shape[1], sheet.shape[0] + 40), PAPER)
    picture.paste(Image.fromarray(sheet))
    bar = colours(np.linspace(0, 1, picture.width - 2 * border)[None].repeat(12, 0))
    picture.paste(Image.fromarray(bar), (border, sheet.shape[0]))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    draw.text((border, picture.height - 8), f"{values.min():.3g}", INK, font, anchor="ls")
    draw.text((picture.width / 2, picture.height - 8), f"{unit}, mean {values.mean():.3g}", INK, font, anchor="ms")
    draw.text((picture.width - border, picture.height - 8), f"{values.max():.3g}", INK, font, anchor="rs")
    return picture


def colours(shares: np.ndarray) -> np.ndarray:
    """Return 8-bit colours (..., 3) of shares in [0, 1], dark to bright."""
    stops = np.linspace(0, 1, len(HEAT))
    mixed = [np.interp(shares, stops, channel) for channel in HEAT.T]
    return np.stack(mixed, axis=-1).round().astype(np.uint8)
