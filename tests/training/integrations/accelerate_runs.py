"""The script for Accelerate in one of several processes: prints its rank, its number of rows and its losses."""

import os

import torch

from annsoftmax_ref.training.integrations.with_accelerate import train

accelerator, backbone, head, losses = train("no", epochs=1, cpu=True)
line = [accelerator.process_index, type(backbone).__name__, len(head.weight), *(f"{loss:.6f}" for loss in losses)]
# Both processes write to one pipe: in one call, and so in one piece, where print would make several of it.
os.write(1, f"\nrun: {' '.join(map(str, line))}\n".encode())
torch.distributed.destroy_process_group()
