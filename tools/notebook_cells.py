"""What stands in a notebook: its cells, headings and stored texts, and the names that each cell takes and binds."""

import ast
import json
import re
import symtable

from IPython.core.inputtransformer2 import TransformerManager

from annsoftmax_ref.lessons.kernel_cells import names_in

COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match, ast.FunctionDef, ast.ClassDef)
CUDA_CELL = re.compile(r"\A%%cuda_(kernel|helpers)\b(.*)")
CPP_CELL = re.compile(r"\A%%cpp\s+(\w+)")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_gpu(cell):
    return "gpu" in cell.metadata.get("tags", [])


def output_texts(output):
    """The readable parts of one stored output; base64 images may hold any letters by chance."""
    for key in ("text", "evalue"):
        yield output.get(key, "")
    yield "\n".join(output.get("traceback", []))
    for mime, value in output.get("data", {}).items():
        if not mime.startswith("image/") or mime == "image/svg+xml":
            yield value if isinstance(value, str) else json.dumps(value)


def prose(notebook):
    """(cell number, text) of each markdown cell, without code and mathematics."""
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
            yield number, re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "", text)


def heading_lines(notebook):
    """(marks, text) of each heading, as ('##', 'The cost')."""
    return [found for _, text in prose(notebook) for found in re.findall(r"^(#{1,6}) +(.*?) *$", text, re.M)]


def statement_names(source):
    """For each top-level statement of a code cell: the names it takes from outside, and those it binds."""
    if cuda := CUDA_CELL.match(source):
        bound, used = names_in(cuda.group(2))
        yield set(used), {name.partition("<")[0] for name in bound}
        return
    if cpp := CPP_CELL.match(source):
        yield set(), {cpp.group(1)}
        return
    source = re.sub(r"\A%%(time|timeit|capture)\b.*\n", "", source)  # magics whose body is Python
    source = re.sub(r"^%(time|timeit)\b *(-\w+ *\d* +)*", "", source, flags=re.MULTILINE)
    source = TransformerManager().transform_cell(source)  # the other magics and !commands become calls
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        symbols = table.get_symbols()
        bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
        used = {s.get_name() for s in symbols if s.is_referenced()} | names_inside(table)
        if isinstance(statement, COMPOUND):
            used -= bound  # bound before it is used, as a loop variable is
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            used.add(statement.target.id)
        yield used, bound


def names_inside(table):
    """Global names that functions, classes and comprehensions of a symbol table use."""
    names = set()
    for child in table.get_children():
        names |= {s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced()}
        names |= names_inside(child)
    return names
