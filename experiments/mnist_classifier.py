"""Train the digit classifier that ships as the feature extractor "mnist-classifier".

    python experiments/mnist_classifier.py mnist.npz --out mnist-classifier.extractor.safetensors

mnist.npz holds the arrays train (60000, 28, 28), train_labels (60000,), test (10000, 28, 28) and test_labels (10000,),
all uint8. The images are padded to 32 x 32 black pixels and shifted by at most two pixels in each direction, which is
all the augmentation there is; the network is `prescore.models.classifier.DigitClassifier`, the loss cross-entropy, the
optimizer Adam with a learning rate that rises over 100 steps and falls linearly to 0. Every random number comes from
one generator.

The accuracy on the test images is that of the weights as they are stored, in half precision. It is printed and stored
in the file, with the settings.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from prescore.data import load_images
from prescore.files import check_writable, write_atomically
from prescore.models.classifier import SHAPE, DigitClassifier

SHIFT = 2  # pixels
WARMUP = 100  # steps


def load(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 32, 32), uint8, and their labels (N,)."""
    with np.load(path, allow_pickle=False) as arrays:
        labels = torch.from_numpy(arrays[f"{part}_labels"]).long()
    return load_images(path, key=part, pad=SHAPE[-1]), labels


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to SHIFT pixels along both axes; what leaves on one side, black, comes in on the other."""
    batch, _, H, W = x.shape
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2, batch, 1), generator=generator)
    rows, columns = (torch.arange(H) - down) % H, (torch.arange(W) - right) % W
    return x[torch.arange(batch)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(
    images: Tensor, labels: Tensor, steps: int, batch_size: int, learning_rate: float, seed: int
) -> DigitClassifier:
    generator = torch.Generator().manual_seed(seed)
    network = DigitClassifier(generator).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for step in tqdm(range(steps), unit="step"):
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        x = shifted(images[chosen], generator).float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(x).float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate * min((step + 1) / WARMUP, 1 - step / steps)
        optimizer.step()
    return network


@torch.no_grad()
def accuracy(network: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose largest logit is that of their label."""
    parts = [network(part.float() / 255).argmax(1) for part in images.split(500)]
    return (torch.cat(parts) == labels).double().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the digit classifier that features are taken from")
    parser.add_argument("data", type=Path, help="an .npz of the digits and their labels")
    parser.add_argument("--out", type=Path, default=Path("mnist-classifier.extractor.safetensors"))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    check_writable(options.out)
    settings = (options.steps, options.batch_size, options.learning_rate, options.seed)
    start = time.perf_counter()
    network = train(*load(options.data, "train"), *settings)
    seconds = time.perf_counter() - start
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    share = accuracy(network, *load(options.data, "test"))
    names = ("steps", "batch_size", "learning_rate", "seed")
    facts = dict(zip(names, settings, strict=True)) | {"seconds": round(seconds), "accuracy": share}
    write_atomically(options.out, save(state, metadata={"prescore-classifier": json.dumps(facts)}))
    print(f"{share:.2%} of the test images, {sum(p.numel() for p in network.parameters()):,} parameters, {facts}")


if __name__ == "__main__":
    main()
