"""Configuration of the documentation site: ``make docs`` builds it into ``docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "integrations")]

import ors_gym  # noqa: E402

project = "ors-gym"
author = "The ors-gym maintainers"
copyright = author
version = release = ors_gym.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # rooms export again what their modules define

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
# The reference needs none of them installed.
autodoc_mock_imports = ["accelerate", "datasets", "openenv", "ray", "torch", "transformers", "trl"]
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"ors-gym {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp"

linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_ignore = [r"http://(localhost|127\.0\.0\.1).*"]
