"""Only arinv/parallel.py builds a mesh or names one of its axes."""

import ast
import pathlib

import pytest

import arinv

ROOT = pathlib.Path(arinv.__file__).parents[1]

MESH_MAKERS = {
    "Mesh",
    "AbstractMesh",
    "make_mesh",
    "create_device_mesh",
    "create_hybrid_device_mesh",
}
COLLECTIVES = {
    "psum",
    "pmean",
    "pmax",
    "pmin",
    "all_gather",
    "all_to_all",
    "ppermute",
    "axis_index",
}
AXIS_KEYWORDS = {"axis_name", "axis_names", "spmd_axis_name"}


def imports(source):
    """(dotted name, local name) of everything that a file imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [(alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
    return names


def resolve(node, names):
    """The dotted name of an expression such as jnp.linalg.norm, its first part written out."""
    first, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, [names.get(first, f"<{first}>"), rest]))


def breaks_mesh_rule(path, source):
    """Only arinv/parallel.py builds a mesh or names one of its axes."""
    if path == "arinv/parallel.py":
        return []
    names = {local: dotted for dotted, local in imports(source)}

    def has_text(*nodes):
        parts = [part for node in nodes for part in ast.walk(node)]
        return any(isinstance(p, ast.Constant) and isinstance(p.value, str) for p in parts)

    found = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            if node.value.attr == "shape" and has_text(node.slice):
                found.append(f"{path}:{node.lineno}: names a mesh axis")
        if not isinstance(node, ast.Call):
            continue
        called = resolve(node.func, names)
        last = called.rpartition(".")[2]
        if called.startswith("jax.") and last in MESH_MAKERS:
            found.append(f"{path}:{node.lineno}: builds a mesh")
        named = last == "PartitionSpec" or (called.startswith("jax.") and last in COLLECTIVES)
        if named and has_text(*node.args):
            found.append(f"{path}:{node.lineno}: names a mesh axis")
        if any(k.arg in AXIS_KEYWORDS and has_text(k.value) for k in node.keywords):
            found.append(f"{path}:{node.lineno}: names a mesh axis")
    return found


@pytest.mark.long
def test_the_package_names_axes_in_one_place():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "arinv").rglob("*.py")}
    assert "arinv/parallel.py" in sources
    lines = [line for path, source in sources.items() for line in breaks_mesh_rule(path, source)]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import jax\njax.make_mesh((8,), n)", "builds"),
        ("from jax.sharding import Mesh\nMesh(d, n)", "builds"),
        ("from jax.sharding import PartitionSpec as P\nP(None, 'data')", "names"),
        ("from jax import lax\nlax.psum(x, 'data')", "names"),
        ("norm(axis_name='data')", "names"),
        ("n = mesh.shape['data']", "names"),
    ],
)
def test_breaks_mesh_rule_reports(source, message):
    (line,) = breaks_mesh_rule("arinv/train/a.py", source)
    assert line.startswith("arinv/train/a.py") and message in line


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("arinv/parallel.py", "import jax\njax.make_mesh((8,), ('data',))"),
        ("arinv/train/a.py", "from arinv import parallel\nparallel.make_mesh()"),
        ("arinv/a.py", "from jax.sharding import PartitionSpec\nPartitionSpec()"),
    ],
)
def test_breaks_mesh_rule_accepts(path, source):
    assert breaks_mesh_rule(path, source) == []
