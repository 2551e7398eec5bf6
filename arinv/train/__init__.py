"""Training: a module for each kind of network, the loop around their steps, optimizers, speed and operations.

The files, in the order in which a run passes them: what is trained, its setup, its steps, the loop.

classifier.py        task: an encoder as a classifier, standard or robust
inverter.py          task: a generator that inverts one layer of an encoder
denoiser.py          task: a wavelet decoder on the convolutions of an encoder
gan.py               task: a generator of images from noise, and its discriminator
class_inverters.py   task: an inverter or a GAN for each class
autoencoder.py       task: an autoencoder of images and of those of a GAN
aegan.py             task: an autoencoder whose decoder is the generator of a GAN
training.py          `TrainSetup`, which each of them builds; shared fields; the run around the loop
optimizers.py        optimizers and learning-rate schedules by name
robust.py            recipes of robust training: views of a batch, and their loss
overfitting.py       a watch on catastrophic overfitting during robust training
games.py             games of a generator against a discriminator
generator_update.py  the loss of reconstructions, and the update of a generator and its discriminator
loop.py              the loop: restore, step, log, evaluate, save, stop on SIGTERM
feed.py              batches on the devices, and their results in an evaluation
speed.py             images per second, MFU, memory, profiles
flops.py             operations of a function, counted from its jaxpr
accelerators.py      peak operations, memory and bandwidths of accelerators
"""
