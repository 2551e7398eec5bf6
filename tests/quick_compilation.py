"""XLA's flags for programs that are compiled to run a few steps, for this process and for those it starts."""

from importlib import metadata

# The backend's optimisations cost more time than they save here, and the emitters of fused loops alone
# four times what all the rest of a compilation takes.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
if metadata.version("jaxlib") in ("0.10.2", "0.11.0"):
    # Not the faulty sums (see arinv.avoid_faults_of_xla), but the slow convolutions: they round an image in the same
    # way in whatever batch it stands, so that runs on other numbers of devices can be compared closely.
    FLAGS += " --xla_cpu_experimental_ynn_fusion_type=-reduce"
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
