"""The model card of a package: plain data in, Markdown out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rhyme.encoders.backbone import backbone_class
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.features import InferencePlan
from rhyme.errors import printable

SECTIONS: dict[str, str] = {
    "summary": "What it is",
    "training": "How it was trained",
    "data": "What it was trained on",
    "figures": "Measured",
    "limits": "Limits",
    "licence": "Licence",
    "references": "References",
}
"""Known entries of a card in the order they are printed; any other entry follows them."""


def render_card(
    card: Mapping[str, Any],
    config: BackboneConfig,
    plan: InferencePlan,
    *,
    kind: str = "encoder",
    heads: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Markdown of a model card.

    Args:
        card: entries of :data:`SECTIONS` and any others, each a text, a list of texts, a table of
            texts (a mapping), or rows (a list of mappings with the same keys); ``title`` is the
            heading.
        config: the backbone.
        plan: how it wants its input.
        kind: kind of export.
        heads: a line on each head.
        metadata: written as YAML before the heading, as model hubs read it.

    Returns:
        The text, which depends on the arguments alone.
    """
    parts: list[str] = []
    if metadata:
        import yaml

        text = yaml.safe_dump(dict(metadata), sort_keys=True, allow_unicode=True)
        parts.append(f"---\n{text}---")
    parts.append(f"# {_inline(card.get('title', f'{config.name} {kind}'))}")
    order = [key for key in SECTIONS if key in card]
    order += [key for key in card if key not in SECTIONS and key != "title"]
    for key in order:
        heading = SECTIONS.get(key, str(key).replace("_", " ").capitalize())
        parts.append(f"## {_inline(heading)}\n\n{_block(card[key])}")
    clip = f"clips of {plan.frames} frames, {_apart(plan)}" if plan.frames > 1 else "single frames"
    facts = {
        "backbone": config.name,
        **{name.replace("_", " "): value for name, value in _shape(config).items()},
        "input": f"{clip}; {_scaled(plan)}, centre {plan.size} x {plan.size} pixels",
        "mean": plan.mean,
        "standard deviation": plan.std,
        **{f"head {name}": line for name, line in (heads or {}).items()},
    }
    parts.append(f"## Architecture and input\n\n{_block(facts)}")
    axes = "[b, t, c, h, w]" if backbone_class(config.name).reads_clips else "[b, c, h, w]"
    parts.append(
        "## Use\n\n```python\nfrom rhyme.encoders import load_package\n\n"
        'package = load_package("this folder")\n'
        f"features = package.module(pixels)  # normalised {axes}\n"
        "features.pooled, features.map\n```"
    )
    return "\n\n".join(parts) + "\n"


def _shape(config: BackboneConfig) -> dict[str, Any]:
    """Options a layer that the backbone has."""
    names = ("strides", "temporal_strides", "widths", "dilations")
    plain = BackboneConfig()
    return {n: getattr(config, n) for n in names if getattr(config, n) != getattr(plain, n)}


def _scaled(plan: InferencePlan) -> str:
    """How frames are scaled before the cut, in words."""
    if plan.aspect is None:
        return f"shorter side to {plan.resize}"
    return f"scaled to {plan.aspect:.3g} times as wide as high, shorter side {plan.resize}"


def _apart(plan: InferencePlan) -> str:
    """How far the frames of a clip lie apart, in words."""
    if plan.spacing > 0:
        return f"{plan.spacing:g} s apart"
    return f"every {plan.stride} frames" if plan.stride > 1 else "one after the other"


def _block(value: Any) -> str:
    """Text, list, table of one mapping, or table of rows."""
    if isinstance(value, Mapping):
        rows = cast(Mapping[Any, Any], value)
        return _table(["", ""], [[key, rows[key]] for key in rows])
    if isinstance(value, Sequence) and not isinstance(value, str):
        entries = list(cast(Sequence[Any], value))
        if entries and all(isinstance(entry, Mapping) for entry in entries):
            tables = cast(list[Mapping[Any, Any]], entries)
            columns = list(dict.fromkeys(key for row in tables for key in row))
            return _table(columns, [[row.get(c, "") for c in columns] for row in tables])
        return "\n".join(f"- {_inline(entry)}" for entry in entries) or "none"
    text = "\n".join(printable(line) for line in str(value).splitlines())
    return text.strip() or "none"


def _table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_inline(cell) for cell in line) + " |" for line in lines)


def _inline(value: Any) -> str:
    """A value in one line that cannot break out of a table."""
    if isinstance(value, float):
        value = f"{value:.6g}"
    if isinstance(value, list | tuple):
        value = ", ".join(_inline(v) for v in cast(Sequence[Any], value))
    return printable(" ".join(str(value).split())).replace("|", "\\|")
