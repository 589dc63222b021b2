"""Training steps of a CIFAR ResNet in PyTorch, as one writes them without further thought.

Started by `benchmark_training.py` in an environment of its own, with the case as JSON in the only
argument. Says its version in one line, then answers every line `LAYOUT STEPS` (`contiguous` or
`channels_last`) with the seconds that so many steps took, until its input ends. The network is the
one of `mnemonics_tf/models/resnet.py` with the cosine classifier, in training mode.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, filters: int, stride: int, relu_after: bool):
        super().__init__()
        self.convolution1 = nn.Conv2d(width, filters, 3, stride, padding=1, bias=False)
        self.normalization1 = nn.BatchNorm2d(filters)
        self.convolution2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.normalization2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Identity()
        if stride != 1 or width != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )
        self.relu = nn.ReLU(inplace=True)
        self.relu_after = relu_after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[n, c, h, w]` to `[n, filters, h / stride, w / stride]`."""
        y = self.relu(self.normalization1(self.convolution1(x)))
        y = self.normalization2(self.convolution2(y))
        y += self.shortcut(x)
        return self.relu(y) if self.relu_after else y


class Network(nn.Module):
    """A CIFAR ResNet with a cosine classifier."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
        layers.append(nn.ReLU(inplace=True))
        blocks = (depth - 2) // 6
        width = 16
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                last = stage == 2 and block == blocks - 1
                layers.append(Block(width, filters, stride, relu_after=not last))
                width = filters
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.kernel = nn.Parameter(torch.randn(num_classes, width) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images `[n, 3, h, w]` to logits `[n, classes]`."""
        features = functional.normalize(self.backbone(images), dim=1)
        return self.scale * functional.linear(features, functional.normalize(self.kernel, dim=1))


class Trainer:
    """Takes SGD steps on one batch of noise in a memory layout."""

    def __init__(self, case: dict, layout: str):
        memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
        self._clock = CLOCKS[case["clock"]]
        height, width, channels = case["image_shape"]
        images = torch.randn(case["batch_size"], channels, height, width)
        self._images = images.to(memory_format=memory_format)
        self._labels = torch.randint(case["num_classes"], (case["batch_size"],))
        self._network = Network(case["depth"], case["num_classes"]).to(memory_format=memory_format)
        self._optimizer = torch.optim.SGD(
            self._network.parameters(),
            case["learning_rate"],
            momentum=case["momentum"],
            weight_decay=case["weight_decay"],
        )

    def run(self, steps: int) -> float:
        """Returns the seconds that `steps` steps took."""
        started = self._clock()
        for _ in range(steps):
            self._optimizer.zero_grad()
            loss = functional.cross_entropy(self._network(self._images), self._labels)
            loss.backward()
            self._optimizer.step()
        return self._clock() - started


def main() -> None:
    """Answers requests until the input ends."""
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    trainers = {layout: Trainer(case, layout) for layout in ("contiguous", "channels_last")}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    for request in sys.stdin:
        layout, steps = request.split()
        print(trainers[layout].run(int(steps)), flush=True)


if __name__ == "__main__":
    main()
