import os

# A GPU computes in another order: what is compared to the bit, or nearly, is compared on the CPU.
# Whoever sets the variable tests on what it names.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

# Tensors here are tiny: more threads only contend with each other, and with spawned ranks.
torch.set_num_threads(1)
