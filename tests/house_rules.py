"""The house rules: what may import what, who may name a library or a mesh axis, how long a file is.

Every rule is a function of a file's path and text that returns the lines that break it.
test_layers.py applies them to the tree, and shows of each that it can fail.
"""

import ast
import functools
import importlib.metadata
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the bottom up. A file imports from lower rows, and from its own package.
ROWS = [
    ("types", "errors", "_xla"),
    ("ops", "distributed", "paths", "interrupts"),
    ("models", "attacks", "losses", "metrics", "data", "parallel"),
    ("experiment", "command_line"),
    ("train",),
    ("plan",),
    ("apps",),
    ("tasks",),
    ("main",),
    ("__main__",),
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}

# Library or part of one -> the only places that may use it.
DOORS = {
    "flax": ("arinv/models/", "arinv/experiment/state.py"),
    "flax.nnx": (),
    "flax.training": (),
    "orbax": ("arinv/experiment/checkpoint.py",),
    "tensorboardX": ("arinv/experiment/writer.py",),
    "matplotlib": ("arinv/experiment/figures.py",),
    "clu.metric_writers": (),  # imports TensorFlow, as does the next
    "clu.periodic_actions": (),
    "tensorflow": (),
    "torch": (),
}
# Algorithms of the applications take callables, whatever networks stand behind them.
ALGORITHMS = {
    *(
        "anomaly/__init__",
        "anomaly/latent_search",
        "anomaly/nearest_neighbors",
        "anomaly/scores",
        "anomaly/score_attack",
    ),
    *("denoising/tiles", "inversion/enlarging", "inversion/representation_inversion", "style/transfer"),
}
LIFTED = ("scan", "jit", "vmap", "remat", "checkpoint", "while_loop", "cond", "switch")
DOORS |= {f"flax.linen.{name}": () for name in LIFTED}
NOWHERE = ("tensorflow", "clu.metric_writers", "clu.periodic_actions")

# Used where a user has installed it; its licence (non-commercial) keeps it out of the requirements.
OPTIONAL = ("bm3d",)

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

IMPORTERS = ("import_module", "__import__")

TOP_LEVEL = {
    *("arinv", "configs", "launch", "tests", ".ci", ".gitignore", "LICENSE"),
    *("README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt", "setup.py"),
}


def module_of(path):
    """The dotted name of the module in a file."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(path, source):
    """All (line, dotted name, local name) that a file imports, wherever in it."""
    package = module_of(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    found = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                found.append((node.lineno, alias.name, local))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            for alias in node.names:
                dotted = ".".join([*base, alias.name])
                found.append((node.lineno, dotted, alias.asname or alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS):
            name = next((n.value for n in ast.walk(node) if isinstance(n, ast.Constant)), "")
            found.append((node.lineno, str(name).strip("."), ""))
    return found


def uses(path, source):
    """All (line, dotted name) that a file imports or reaches through an attribute of an import."""
    found = imports(path, source)
    names = {local: dotted for _, dotted, local in found if local}
    roots = {dotted.split(".")[0] for _, dotted, _ in found}
    names |= {local: local for local in names if local in roots}  # `import a.b` binds a
    used = [(line, dotted) for line, dotted, _ in found]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Attribute):
            used.append((node.lineno, resolve(node, names)))
    return used


def resolve(node, names):
    """The dotted name of an expression such as jnp.linalg.norm, its first part written out."""
    first, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, [names.get(first, f"<{first}>"), rest]))


def is_within(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def breaks_layers(path, source):
    parts = module_of(path).split(".")
    own = parts[1] if len(parts) > 1 else None
    if own is not None and own not in ROW:
        return [f"{path}: {own} is in no row of the layers"]
    found = []
    for line, dotted, _ in imports(path, source):
        other = dotted.split(".")[1] if dotted.startswith("arinv.") else None
        if other not in ROW or other == own:
            continue
        if own is None and other != "_xla":  # XLA's flags have to be set before anything else is imported
            found.append(f"{path}:{line}: the package itself imports {dotted}")
        elif own is not None and ROW[other] > ROW[own]:
            found.append(f"{path}:{line}: arrow up, {own} imports {dotted}")
        elif own is not None and ROW[other] == ROW[own]:
            found.append(f"{path}:{line}: arrow sideways, {own} imports {dotted}")
    return found


def breaks_doors(path, source):
    doors = DOORS if path.startswith(("arinv/", "configs/")) else dict.fromkeys(NOWHERE, ())
    return [
        f"{path}:{line}: {name} may not be used here"
        for line, name in uses(path, source)
        for library, places in doors.items()
        if is_within(name, library) and not path.startswith(places or ("//",))
    ]


def breaks_algorithms(path, source):
    if path.removeprefix("arinv/apps/").removesuffix(".py") not in ALGORITHMS:
        return []
    return [
        f"{path}:{line}: an algorithm imports {name}"
        for line, name, _ in imports(path, source)
        if any(is_within(name, f"arinv.{package}") for package in ("models", "experiment", "train"))
    ]


def breaks_mesh(path, source):
    """Only arinv/parallel.py builds a mesh or names one of its axes."""
    if path == "arinv/parallel.py":
        return []
    names = {local: dotted for _, dotted, local in imports(path, source) if local}

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
        if is_within(called, "jax") and last in MESH_MAKERS:
            found.append(f"{path}:{node.lineno}: builds a mesh")
        named = last == "PartitionSpec" or (is_within(called, "jax") and last in COLLECTIVES)
        if named and has_text(*node.args):
            found.append(f"{path}:{node.lineno}: names a mesh axis")
        if any(k.arg in AXIS_KEYWORDS and has_text(k.value) for k in node.keywords):
            found.append(f"{path}:{node.lineno}: names a mesh axis")
    return found


def breaks_configs(path, source):
    """A config is plain data: ml_collections, the standard library and other configs make it."""
    return [
        f"{path}:{line}: a config imports {name}"
        for line, name, _ in imports(path, source)
        if name.split(".")[0] not in {"ml_collections", "configs", *sys.stdlib_module_names}
    ]


@functools.cache
def distributions():
    """Top-level package -> names of the distributions that bring it; it takes a while to find out."""
    return importlib.metadata.packages_distributions()


def breaks_requirements(path, source):
    """What arinv imports is named in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()

    def normal(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line for line in lines if line and not line.startswith("#")]
    declared = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}
    own = {
        "arinv",
        "configs",
        *sys.stdlib_module_names,
        *OPTIONAL,
        *(d.split(".")[0] for d in DOORS if not DOORS[d]),
    }
    return [
        f"{path}:{line}: {name} is not in requirements.txt"
        for line, name, _ in imports(path, source)
        if (top := name.split(".")[0]) not in own
        and not declared & {normal(distribution) for distribution in distributions().get(top, [top])}
    ]


def breaks_size(path, source, *, lines=500, function_lines=60):
    """A docstring does not count as a line of its function: the public ones are long on purpose."""
    found = []
    if (count := len(source.splitlines())) > lines:
        found.append(f"{path}: {count} lines, more than {lines}: one subject each?")
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                count -= node.body[0].end_lineno - node.body[0].lineno + 1
            if count > function_lines:
                found.append(f"{path}:{node.lineno}: {node.name} has {count} lines of code")
    return found


def breaks_names(path, source):
    """A file is named after its subject."""
    name = pathlib.PurePath(path).stem.strip("_")
    vague = name in {"util", "utils", "helper", "helpers", "misc", "common_utils"}
    return [f"{path}: {name} says nothing about what is in it"] if vague else []


def circles(sources):
    """The circles among the modules of {path: source}, each as a line of text."""
    known = {module_of(path) for path in sources}
    graph = {}
    for path, source in sources.items():
        targets = set()
        for _, name, _ in imports(path, source):
            while name and name not in known:
                name = name.rpartition(".")[0]
            targets.add(name)
        graph[module_of(path)] = sorted(targets - {"", module_of(path)})
    found, done = [], set()

    def visit(module, trail):
        if module in trail:
            found.append("circle: " + " -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in graph[module]:
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def files(*folders):
    """{path: source} of the Python files in folders, with scripts that have no ending."""
    found = {}
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()):
        if path.suffix in {".py", ""}:
            source = path.read_text()
            if path.suffix or "python" in source.split("\n", 1)[0]:
                found[path.relative_to(ROOT).as_posix()] = source
    return found
