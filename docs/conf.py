"""Sphinx configuration."""

import rhyme

project = "rhyme"
author = "the rhyme authors"
project_copyright = "the rhyme authors"
release = version = rhyme.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "rhyme"
exclude_patterns = ["_build"]
napoleon_use_ivar = True  # a table of attributes, not a heading of its own for each
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
suppress_warnings = ["myst.xref_missing"]
