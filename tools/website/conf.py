"""Sphinx's settings. make_site.py lays out the sources and runs it: `make site`."""

import contents
import docstrings
import outputs
from links import Links

address = contents.repository()

project = html_title = "ANN Softmax, from NumPy to CUDA"
extensions = ["myst_nb", "mathml", "sphinx.ext.autodoc", "sphinx_copybutton"]
smartquotes = False  # code is quoted in prose, and shapes are [..., d]

nb_execution_mode = "off"  # what is stored is shown; nbval tests it
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 6
myst_heading_slug_func = "links.slug"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # those of torch are in another markup
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
add_module_names = False

html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = True  # the notebook as it is stored, for the button that downloads it
html_show_sphinx = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search stands in the side bar, and on a phone above the page
    "use_fullscreen_button": False,
    "footer_content_items": [],
}
if address:
    html_theme_options |= {
        "repository_url": address,
        "repository_branch": "HEAD",
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }

pages = {contents.docname(page): page for page in contents.pages()}
links = Links(address)


def read(app, docname, source):
    """A page of the repository, its links made links of the site; the first one with the contents below it."""
    page = pages.get(docname)
    if page is None:
        return
    source[0] = links.of_page(source[0], page)
    if page.endswith(".ipynb"):
        source[0] = outputs.prepare_notebook(source[0])
    if page == contents.HOME:
        source[0] += contents.toctrees()


def setup(app):
    app.connect("source-read", read)
    app.connect("doctree-read", outputs.for_a_page)
    app.connect("autodoc-process-docstring", docstrings.process)
    return {"parallel_read_safe": True}
