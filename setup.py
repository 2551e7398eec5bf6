"""The packages of the wheel: pyproject.toml says everything else."""

import setuptools

CONFIGS = setuptools.find_packages(include=["configs*"])

# configs/ is installed as arinv/configs, where the command finds it; a package `configs` could collide with a user's.
setuptools.setup(
    packages=[*setuptools.find_packages(include=["arinv*"]), *(f"arinv.{name}" for name in CONFIGS)],
    package_dir={"arinv.configs": "configs"},
    package_data={
        "arinv.configs.paper": ["published.json"],
        "arinv.zoo": ["*/*.safetensors", "*/card.json"],
    },
)
