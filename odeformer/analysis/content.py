"""Types of the files that analyses write: ``analysis.json``, ``comparison.json`` and ``drift.json``.

A number that is not finite is stored as ``null``. Nested lists are indexed [times, heads, …] for spectra, and
[outputs, tokens] or [depths, tokens] elsewhere. The files' own ``settings`` give units.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NotRequired, TypedDict

Settings = dict[str, Any]
"""The settings and units of a part."""
Range = dict[str, float]
"""A mean with its 95 % interval: ``mean``, ``low`` and ``high``."""
Pair = dict[str, float | None]
"""A figure of both models, ``a`` and ``b``, and their ``difference``; None where a model has none."""
Which = Literal["a", "b"]
"""The first or the second model of a comparison."""
BOTH: tuple[Which, Which] = ("a", "b")


def numbers(values: Any) -> Any:
    """A tensor, a list, a dictionary or a number as JSON: numbers to six digits, None if not finite."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, dict):
        return {name: numbers(value) for name, value in values.items()}
    if isinstance(values, list):
        return [numbers(value) for value in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None


class ModelSource(TypedDict):
    """The model of an analysis: its name, versions, checksum and origin."""

    name: str
    adapter: str | None
    versions: list[str]
    weights_sha256: str
    trained_by: str


class Part(TypedDict):
    """A part of a file, with the settings and units that it was made with."""

    settings: Settings


class Answer(Part):
    """The most likely tokens after the text."""

    ids: list[int]
    probabilities: list[float]
    tokens: NotRequired[list[str]]


class Spectrum(TypedDict):
    """Spectra of one product of weights along t, for each head."""

    eigenvalues: list[list[list[list[float]]]]
    singular_values: list[list[list[float]]]
    norm: list[list[float]]
    roughness: list[float]


class FeedForward(TypedDict):
    """Eigenvalues of the feed-forward part's Jacobian along t, at states of some tokens."""

    times: list[float]
    tokens: list[int]
    eigenvalues: list[list[list[list[float]]]]


class Spectra(Part):
    """Spectra of the model and of an untrained one, by the name of the product."""

    model: dict[str, Spectrum]
    random: dict[str, Spectrum]
    feed_forward: FeedForward


class Lyapunov(Part):
    """Leading Lyapunov exponents of all tokens' joint state, and the amplification of noise."""

    values: list[float]
    per_layer: list[float]
    edges: list[float]
    local: list[list[float]]
    noise: list[dict[str, float]]


class Sensitivity(Part):
    """Attribution of predictions to the tokens before them."""

    outputs: list[int]
    predicted_ids: list[int]
    probabilities: list[float]
    scores: list[list[float]]
    tokens: NotRequired[list[str]]


class Pairs(Part):
    """Growth of a small change of each token on its way to later tokens."""

    outputs: list[int]
    growth: list[list[float | None]]


class Clustering(Part):
    """Measures of clustering along t, by name, for the model and two controls."""

    t: list[float]
    model: dict[str, list[float]]
    constant: dict[str, list[float]]
    shuffled: dict[str, list[float]]


class Controls(TypedDict):
    """Losses with other weights along t."""

    constant: float | None
    shuffled: list[float | None]


class ByDepth(Part):
    """Loss and cost at each depth N, and the movement of the states along t."""

    depths: list[int]
    loss: list[float]
    token_loss: list[list[float]]
    distance: list[float]
    flops: list[float]
    milliseconds: list[float]
    t: list[float]
    speed: list[float]
    turning: list[float]
    controls: Controls


class Reliability(TypedDict):
    """Reliability diagram at one depth."""

    confidence: list[float]
    accuracy: list[float]
    counts: list[int]
    expected_error: float


class Calibration(Part):
    """Reliability diagrams by depth N; none for a short text."""

    depths: dict[str, Reliability]


class Faithfulness(Part):
    """Faithfulness of each attribution method to this text's next prediction, by name."""

    methods: dict[str, dict[str, float | None]]


class DisturbanceRow(TypedDict):
    """Bits per character that a disturbance adds at each depth."""

    kind: str
    strength: float
    label: str
    rise: list[Range]


class Robustness(Part):
    """Bits per character of the undisturbed text, and what disturbances add to them."""

    clean: list[float] | None
    rows: list[DisturbanceRow]
    left_out: dict[str, str]


class Findings(Part):
    """The parts of ``analysis.json`` that need no tokenizer."""

    answer: Answer
    spectra: Spectra
    lyapunov: Lyapunov
    sensitivity: Sensitivity
    pairs: Pairs
    clustering: Clustering
    depth: ByDepth
    calibration: Calibration
    faithfulness: Faithfulness


class Analysis(Findings):
    """The content of ``analysis.json``."""

    format_version: int
    made: str
    model: ModelSource
    text_sha256: str
    tokens: list[str]
    robustness: Robustness


class Side(Part):
    """Model and settings of one side of a comparison."""

    made: str
    model: ModelSource


class DepthRow(TypedDict):
    """Loss and cost of both models at one depth N."""

    depth: int
    loss: Pair
    flops: Pair
    milliseconds: Pair


class DisturbedText(TypedDict):
    """A model's loss of the undisturbed text, in bits per character."""

    depth: int
    characters: int
    clean: float


class DisturbancePair(TypedDict):
    """Bits per character that a disturbance adds to each model."""

    label: str
    a: Range | None
    b: Range | None
    clearly_less: Which | None


class Disturbances(TypedDict):
    """Effect of disturbed text on both models."""

    a: DisturbedText | None
    b: DisturbedText | None
    same_text: bool
    rows: list[DisturbancePair]


class Comparison(Part):
    """The content of ``comparison.json``."""

    format_version: int
    made: str
    text_sha256: str
    a: Side
    b: Side
    figures: dict[str, Pair]
    loss_difference: Range | None
    tokens_better: float
    depths: list[DepthRow]
    disturbances: Disturbances | None
    token_loss: dict[str, list[float]]


class DriftFigure(TypedDict):
    """A figure's mean over each text, and the test of whether it has moved."""

    unit: str
    reference: float
    new: float
    difference: Range
    statistic: float
    p: float
    p_adjusted: float
    moved: bool


class DriftText(TypedDict):
    """A text of ``odeformer drift``; ``windows`` holds the figures of each window by name."""

    file: str
    sha256: str
    characters: int
    window_starts: list[int]
    windows: dict[str, list[float]]


class Drift(Part):
    """The content of ``drift.json``."""

    format_version: int
    made: str
    model: ModelSource
    texts: dict[str, DriftText]
    figures: dict[str, DriftFigure]
    moved: list[str]
