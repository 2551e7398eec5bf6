"""Pure jnp functions, and SIFT on the host: the bottom layer, independent of models and datasets.

The files, by subject:

inputs.py        checks of the arguments of public functions
keys.py          checks of PRNG keys, and keys for the rows of a batch
norms.py         balls around images for l1, l2 and linf
images.py        ranges of images, grids, padding
colors.py        grey values, and shifts of the hue
augment.py       random augmentation inside the jitted step
degradations.py  noise of denoisers, and operators of inverse problems
latents.py       random latents of generators
descent.py       gradient descent on inputs, shared by all searches for latents
loops.py         loops with loop-invariant code moved in front of them
conv.py          convolutions in the forms that XLA runs fast
pooling.py       pooling and upsampling in such forms
channels.py      sums over positions, biases, batch normalization
wavelets.py      the Haar transform: pooling that can be inverted
wct.py           whitening and coloring of features
linalg.py        square roots of symmetric matrices
hog.py           HOG features
lbp.py           local binary patterns
sift.py          SIFT features, on the host
"""
