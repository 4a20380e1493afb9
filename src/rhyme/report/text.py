"""Text and figures as the page shows them: safe, short, and aligned."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from rhyme.errors import printable

DASH = "–"
PROTOCOLS = {
    "knn": "k-NN",
    "linear": "Linear probe",
    "few_labels": "Few labels",
    "few_shot": "Few labels",
    "finetune": "Fine-tuning",
    "retrieval": "Retrieval",
    "cycle": "Cycle return",
    "cycle_return": "Cycle return",
    "attention_mass": "Attention mass",
    "davis": "Mask propagation",
    "propagation": "Mask propagation",
    "pose": "Pose propagation",
    "tracking": "Tracking",
    "segmentation": "Action segmentation",
}
METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "map": "mAP",
    "mAP": "mAP",
    "miou": "mIoU",
    "auc": "AUC",
    "frame_top1": "top-1 accuracy of frames",
    "return_rate": "return rate",
    "return_rate_query": "return rate of the frame itself",
    "return_rate_uniform": "return rate with uniform weights",
    "same_class_mass": "attention on the same class",
    "nearest_same_class": "nearest neighbour of the same class",
    "edit": "edit score",
    "f1_10": "F1 @ 10 %",
    "f1_25": "F1 @ 25 %",
    "f1_50": "F1 @ 50 %",
}
PARTS = {"stationary": "stationary half", "non_stationary": "non-stationary half"}
"""Named parts of a feature, in words."""
LOWER_IS_BETTER = re.compile(
    r"(?<![a-z0-9])(errors?|loss(es)?|r?mse|distances?|epe|perplexity|(median|mean)[_ ]rank)"
    r"(?![a-z0-9])"
)
"""What a smaller value is better of, as whole words of a metric's name."""
ACCURACY = re.compile(r"top\d")
"""How names of accuracies begin; what follows may be the name of a list, which is anybody's."""


def clean(value: object, limit: int = 400) -> str:
    """A value as one printable line; control characters and lone surrogates become escapes.

    Args:
        value: anything with a string form; None gives an empty string.
        limit: longest text in characters; the middle of a longer one is left out.
    """
    text = "" if value is None else printable(str(value))
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]} … {text[-(limit - head) :]}"


def block(text: str, limit: int = 200_000) -> str:
    """Text of several lines, each of them printable.

    Args:
        text: e.g. a configuration file.
        limit: characters shown; the rest is left out and said to be.
    """
    shown = text[:limit].expandtabs(4).splitlines()
    lines = [printable(line) for line in shown]
    if len(text) > limit:
        lines.append(f"... {len(text) - limit} more characters")
    return "\n".join(lines)


def short_path(path: str, limit: int = 40) -> str:
    """The name of a file without its folders, with the middle of a long one left out."""
    name = clean(path.rstrip("/").rsplit("/", 1)[-1], 4000)
    if len(name) <= limit:
        return name
    tail = limit * 2 // 3
    return f"{name[: limit - tail - 1]}…{name[-tail:]}"


def figure(value: float | None, *, sign: bool = False, digits: int = 3) -> str:
    """A measured figure; ``–`` when there is none.

    Args:
        value: the figure.
        sign: print a plus sign too.
        digits: decimals of figures below 10; larger ones get fewer.
    """
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "not finite"
    if abs(value) < 1e-12:
        value = 0.0  # what is left of a difference of equals
    size = abs(value)
    if size != 0 and size < 0.5 * 10**-digits:
        text = f"{size:.1e}"
    elif size >= 1e7:
        text = f"{size:.2e}"
    elif size >= 1000:
        text = f"{size:,.0f}"
    else:
        text = f"{size:.{max(0, digits - (size >= 10) - (size >= 100))}f}"
    if value < 0 and text.strip("0.") != "":
        return f"\N{MINUS SIGN}{text}"
    return f"+{text}" if sign else text


def count(number: int | None, noun: str = "", plural: str | None = None) -> str:
    """A count with its noun: ``1 item``, ``65,536 items``."""
    if number is None:
        return DASH
    word = noun if number == 1 else (plural or f"{noun}s") if noun else ""
    return f"{number:,} {word}".rstrip()


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(stamp: object) -> str:
    """A time stamp (ISO 8601, or seconds since 1970) as UTC; other values as they are."""
    if isinstance(stamp, bool) or not isinstance(stamp, (int, float, str)):
        return clean(stamp, 40)
    try:
        if isinstance(stamp, str):
            at = datetime.fromisoformat(stamp)
            at = at.astimezone(UTC) if at.tzinfo else at
        else:
            at = datetime.fromtimestamp(stamp, UTC)
        return at.strftime("%Y-%m-%d %H:%M:%S UTC" if at.tzinfo else "%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return clean(stamp, 40)


def protocol_name(protocol: str) -> str:
    """Name of a protocol for readers."""
    return PROTOCOLS.get(protocol) or words(protocol)


def metric_name(metric: str) -> str:
    """Name of a metric for readers, e.g. ``recall_at_5`` as ``recall @ 5``."""
    name, at, head = metric.partition("@")
    if at:
        return f"{metric_name(name)}, {PARTS.get(head) or f'head {clean(head, 20)}'}"
    return METRICS.get(metric) or words(metric).replace(" at ", " @ ").replace(" map", " mAP")


def words(name: str) -> str:
    """An identifier as words."""
    return clean(name, 120).replace("_", " ").replace("/", " ").strip() or DASH


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one, judged by the words of its name."""
    name = metric.lower().partition("@")[0]
    return not ACCURACY.match(name) and LOWER_IS_BETTER.search(name) is not None
