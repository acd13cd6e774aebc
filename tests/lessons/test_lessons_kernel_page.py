"""How a kernel cell is shown: all of its text, with the cell's line numbers, in colours that follow the theme."""

import html
import re

from annsoftmax_ref.lessons import kernel_page

SOURCE = (
    '#define ONE 1\n/* a\n   b */\n\n__global__ void f(int* x) {  // < & >\n    x[threadIdx.x] = 1 + sizeof("s");\n}\n'
)


def test_all_of_the_text_is_there_with_the_numbers_of_the_cell():
    page = kernel_page.page(SOURCE)
    lines = page.partition('<pre class="cuda-cell">')[2].removesuffix("</pre>").split("\n")
    numbers = [re.match(r"<i> *(\d+)  </i>", line).group(1) for line in lines]
    assert numbers == [str(i) for i in range(2, 9)]
    text = [html.unescape(re.sub(r"<i>.*?</i>|<[^>]*>", "", line)) for line in lines]
    assert text == SOURCE.rstrip("\n").split("\n")


def test_colours_are_the_theme_s_and_spans_do_not_cross_lines():
    page = kernel_page.page(SOURCE)
    for letter in "pcbkns":
        assert f'class="{letter}"' in page
    assert kernel_page.STYLE.count("var(--jp-mirror-editor") == len(kernel_page.RULES)
    for line in page.split("\n"):
        assert line.count("<span") == line.count("</span>")
    assert len(page) < len(SOURCE) * 6
