"""The tree follows the house rules, and each rule is able to fail."""

import ast
import subprocess

import house_rules as rules
import pytest


@pytest.mark.parametrize(
    ("rule", "folders"),
    [
        (rules.breaks_layers, ["arinv"]),
        (rules.breaks_doors, ["arinv", "configs", "launch", "tests"]),
        (rules.breaks_algorithms, ["arinv"]),
        (rules.breaks_mesh, ["arinv"]),
        (rules.breaks_configs, ["configs"]),
        (rules.breaks_requirements, ["arinv"]),
        (rules.breaks_size, ["arinv", "configs"]),
        (rules.breaks_names, ["arinv", "configs", "launch", "tests"]),
    ],
)
def test_tree_follows(rule, folders):
    found = [line for path, source in rules.files(*folders).items() for line in rule(path, source)]
    assert not found, "\n".join(found)


def test_tree_has_no_circle():
    sources = rules.files("arinv")
    assert "arinv/__init__.py" in sources
    assert not rules.circles(sources)


def test_types_hold_no_code():
    tree = ast.parse((rules.ROOT / "arinv/types.py").read_text())
    assert not [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_top_level_holds_only_what_is_planned():
    if not (rules.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    git = ["git", "-C", str(rules.ROOT), "ls-files"]
    tracked = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {path.split("/")[0] for path in tracked} <= rules.TOP_LEVEL


BROKEN = [
    (rules.breaks_layers, "arinv/ops/norms.py", "from arinv.models import build", "arrow up"),
    (rules.breaks_layers, "arinv/types.py", "def f():\n  from arinv import ops", "arrow up"),
    (rules.breaks_layers, "arinv/models/a.py", "from arinv import losses", "arrow sideways"),
    (rules.breaks_layers, "arinv/models/a.py", "from .. import data", "arrow sideways"),
    (rules.breaks_layers, "arinv/parallel.py", "import arinv.data.source as s", "arrow sideways"),
    (rules.breaks_layers, "arinv/train/loop.py", "from arinv.apps import style", "arrow up"),
    (rules.breaks_layers, "arinv/experiment/a.py", "from arinv.train import loop", "arrow up"),
    (rules.breaks_layers, "arinv/errors.py", "from arinv.types import Array", "arrow sideways"),
    (rules.breaks_layers, "arinv/train/a.py", "import_module(f'arinv.apps.{x}')", "arrow up"),
    (rules.breaks_layers, "arinv/extra.py", "", "no row"),
    (rules.breaks_layers, "arinv/__init__.py", "from arinv.models import build", "package"),
    (rules.breaks_doors, "arinv/train/loop.py", "import flax.linen as nn", "flax"),
    (rules.breaks_doors, "arinv/losses/a.py", "from flax import linen", "flax.linen"),
    (rules.breaks_doors, "arinv/experiment/state.py", "from flax import nnx", "flax.nnx"),
    (rules.breaks_doors, "arinv/models/a.py", "import flax.linen as nn\nnn.scan(f)", "linen.scan"),
    (rules.breaks_doors, "arinv/models/a.py", "import flax\nflax.training.x()", "flax.training"),
    (rules.breaks_doors, "arinv/train/loop.py", "import orbax.checkpoint as ocp", "orbax"),
    (rules.breaks_doors, "arinv/apps/a.py", "from tensorboardX import SummaryWriter", "tensorb"),
    (rules.breaks_doors, "arinv/experiment/writer.py", "from clu import metric_writers", "metric_w"),
    (rules.breaks_doors, "arinv/data/a.py", "def f():\n  import tensorflow as tf", "tensorflow"),
    (rules.breaks_doors, "tests/test_a.py", "import tensorflow", "tensorflow"),
    (rules.breaks_algorithms, "arinv/apps/style/transfer.py", "from arinv.models import build", "arinv.models"),
    (rules.breaks_mesh, "arinv/train/loop.py", "import jax\njax.make_mesh((8,), n)", "builds"),
    (rules.breaks_mesh, "arinv/apps/a.py", "from jax.sharding import Mesh\nMesh(d, n)", "builds"),
    (
        rules.breaks_mesh,
        "arinv/apps/a.py",
        "from jax.sharding import PartitionSpec as P\nP(None, 'data')",
        "names",
    ),
    (rules.breaks_mesh, "arinv/models/a.py", "from jax import lax\nlax.psum(x, 'data')", "names"),
    (rules.breaks_mesh, "arinv/models/a.py", "norm(axis_name='data')", "names"),
    (rules.breaks_mesh, "arinv/train/a.py", "n = mesh.shape['data']", "names"),
    (rules.breaks_configs, "configs/a.py", "import jax", "jax"),
    (rules.breaks_configs, "configs/a.py", "from arinv import models", "arinv"),
    (rules.breaks_requirements, "arinv/data/a.py", "import pandas", "pandas"),
    (rules.breaks_size, "arinv/a.py", "x = 1\n" * 601, "601 lines"),
    (rules.breaks_size, "arinv/a.py", "def f():\n" + "  x = 1\n" * 60, "f has 61 lines"),
    (rules.breaks_names, "arinv/train/utils.py", "", "utils"),
]


@pytest.mark.parametrize(("rule", "path", "source", "said"), BROKEN)
def test_rule_can_fail(rule, path, source, said):
    found = rule(path, source)
    assert found and any(said in line for line in found), found
    assert all(line.startswith(path) for line in found)


ALLOWED = [
    (rules.breaks_layers, "arinv/apps/a.py", "from arinv.ops.norms import project"),
    (rules.breaks_layers, "arinv/models/a.py", "from arinv.models import layers\nimport jax"),
    (rules.breaks_layers, "arinv/main.py", "import arinv\nfrom arinv import __version__, apps"),
    (rules.breaks_doors, "arinv/models/a.py", "import flax.linen as nn\nnn.Conv(8, (3, 3))"),
    (rules.breaks_doors, "arinv/experiment/state.py", "import flax.struct"),
    (rules.breaks_doors, "arinv/data/a.py", "import tensorflow_datasets as tfds"),
    (rules.breaks_doors, "arinv/train/a.py", "from arinv.models import build\nimport clu.metrics"),
    (rules.breaks_mesh, "arinv/parallel.py", "import jax\njax.make_mesh((8,), ('data',))"),
    (rules.breaks_mesh, "arinv/train/a.py", "from arinv import parallel\nparallel.make_mesh()"),
    (rules.breaks_mesh, "arinv/a.py", "from jax.sharding import PartitionSpec\nPartitionSpec()"),
    (rules.breaks_configs, "configs/a.py", "import re\nimport ml_collections\nimport configs.b"),
    (rules.breaks_requirements, "arinv/a.py", "import os, jax, PIL.Image, tensorflow_datasets"),
    (rules.breaks_size, "arinv/a.py", 'def f():\n  """A.' + "\n" * 90 + '  """\n  return 1'),
]


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED)
def test_rule_lets_pass(rule, path, source):
    assert rule(path, source) == []


def test_circle_is_found():
    sources = {
        "arinv/ops/__init__.py": "from arinv.ops import a",
        "arinv/ops/a.py": "from arinv.ops.b import f",
        "arinv/ops/b.py": "def f():\n  from arinv.ops import a",
    }
    assert rules.circles(sources) == ["circle: arinv.ops.a -> arinv.ops.b -> arinv.ops.a"]
    assert rules.circles({**sources, "arinv/ops/b.py": "import jax"}) == []
