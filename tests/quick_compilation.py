"""XLA's flags for programs that are compiled to run a few steps, for this process and for those it starts."""

# The backend's optimisations cost more time than they save here, and the emitters of fused loops alone
# four times what all the rest of a compilation takes.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
