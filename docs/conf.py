"""Sphinx configuration.

Formulas become MathML while the site is built, so that a page shows them without a network.
"""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import rhyme

project = "rhyme"
author = "the rhyme authors"
project_copyright = "the rhyme authors"
release = version = rhyme.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "rhyme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
napoleon_use_ivar = True  # a table of attributes, not a heading of its own for each
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
suppress_warnings = ["myst.xref_missing"]


def formula(page: Any, node: nodes.Element) -> None:
    """Write a formula, within a line or on one of its own; Sphinx calls it.

    Raises:
        nodes.SkipNode: always, since its text is written.
    """
    alone = isinstance(node, nodes.math_block)
    found = convert(node.astext(), display="block" if alone else "inline")
    page.body.append(f'<div class="formula">{found}</div>' if alone else found)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
