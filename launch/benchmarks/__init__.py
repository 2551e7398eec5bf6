"""Speed of training steps and applications, of ours and of the same work in PyTorch. See launch/benchmark --help.

One file a subject, each with a `BENCHMARK`; `NAMES` lists them. A benchmark has variants, which run in
processes of their own, so that no library gets in the way of another, and take turns: A B A B.
"""

DEFAULT = ("pgd", "gan_alexnet", "latent_search", "restoration", "ri", "denoise", "wct")  # the hot loops
NAMES = (*DEFAULT, "conv_rewrites", "input", "startup", "autoattack")
