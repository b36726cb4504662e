"""How Sphinx makes a site of the documents: `scripts/site`.

The source is the root of the repository, not `docs/`: so the links between all documents are the same files here and
where they are read on their own, and each is checked. `_toc.yml` is the menu.
"""

from typing import Any

project = "pipeline-webserver"
extensions = ["myst_parser", "sphinx_external_toc"]
include_patterns = [
    "*.md",
    "docs/**.md",
    "benchmarks/README.md",
    "benchmarks/results/**.md",
    "pipeline_webserver/bundled_model/bert-small-english/README.md",
]
exclude_patterns = [".*", "build", "dist", "site"]
external_toc_path = "docs/_toc.yml"

# Links to headings by the names that GitHub gives them, and pictures with a width.
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

html_theme = "furo"
html_title = project
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
