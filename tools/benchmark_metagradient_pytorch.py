"""One meta-gradient by PyTorch's plain unroll (`create_graph=True`), measured in this process.

Started by `benchmark_metagradient.py` in an environment of its own, with the case as JSON in the
only argument; prints the measurement as one line of JSON. The network is the one of
`mnemonics_tf/models/resnet.py` (CIFAR ResNet, frozen batch statistics, cosine classifier): the same
work, not the same weights. Its batch normalisation is PyTorch's own in evaluation mode, as one
writes it without further thought, or folded into the kernels, as ours is.
"""

import json
import resource
import sys
import time

import torch
from torch.nn import functional

EPSILON = 1e-5
ON_GPU = torch.cuda.is_available()


class Network:
    """A CIFAR ResNet whose parameters are passed in at every call.

    Args:
        depth: 6 n + 2.
        num_classes: width of the cosine classifier.
        transfer: whether kernels carry weight-transfer scales.
        fold: whether batch normalisation is folded into the kernels.
    """

    def __init__(self, depth: int, num_classes: int, transfer: bool, fold: bool):
        self.transfer = transfer
        self.fold = fold
        self.values = {}
        blocks = (depth - 2) // 6
        self._add_convolution("stem", 3, 16, 3)
        self.blocks = []
        width = 16
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                name = f"stage{stage}_block{block}"
                self._add_convolution(f"{name}_conv1", width, filters, 3)
                self._add_convolution(f"{name}_conv2", filters, filters, 3)
                if width != filters:
                    self._add_convolution(f"{name}_shortcut", width, filters, 1)
                self.blocks.append((name, stride))
                width = filters
        self.values["classifier_kernel"] = torch.randn(num_classes, width) / width**0.5
        self.values["classifier_scale"] = torch.tensor(1.0)

    def _add_convolution(self, name: str, channels: int, filters: int, size: int) -> None:
        deviation = (2.0 / (filters * size * size)) ** 0.5
        self.values[f"{name}_kernel"] = deviation * torch.randn(filters, channels, size, size)
        self.values[f"{name}_transfer_scale"] = torch.ones(filters, channels, 1, 1)
        self.values[f"{name}_gamma"] = torch.ones(filters)
        self.values[f"{name}_beta"] = torch.zeros(filters)
        self.values[f"{name}_mean"] = torch.zeros(filters)
        self.values[f"{name}_variance"] = torch.ones(filters)

    def scope_names(self, scope: str) -> list[str]:
        """Returns the names of the parameters that the base level trains."""
        endings = {
            "all": ("kernel", "gamma", "beta", "classifier_scale"),
            "transfer": ("scale", "gamma", "beta", "classifier_kernel"),
            "classifier": ("classifier_kernel", "classifier_scale"),
        }[scope]
        return [name for name in self.values if name.endswith(endings)]

    def features(self, trained: dict, images: torch.Tensor) -> torch.Tensor:
        """Maps images `[n, 3, h, w]` to features `[n, 64]`; `trained` replaces own values."""
        values = {**self.values, **trained}
        x = functional.relu(self._convolve(values, "stem", images, 1))
        for index, (name, stride) in enumerate(self.blocks):
            shortcut = x
            if f"{name}_shortcut_kernel" in values:
                shortcut = self._convolve(values, f"{name}_shortcut", x, stride)
            y = functional.relu(self._convolve(values, f"{name}_conv1", x, stride))
            x = self._convolve(values, f"{name}_conv2", y, 1) + shortcut
            if index < len(self.blocks) - 1:
                x = functional.relu(x)
        return x.mean((2, 3))

    def _convolve(self, values: dict, name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        kernel = values[f"{name}_kernel"]
        if self.transfer:
            kernel = kernel * values[f"{name}_transfer_scale"]
        padding = kernel.shape[-1] // 2
        gamma, beta = values[f"{name}_gamma"], values[f"{name}_beta"]
        mean, variance = values[f"{name}_mean"], values[f"{name}_variance"]
        if not self.fold:
            x = functional.conv2d(x, kernel, None, stride, padding)
            return functional.batch_norm(x, mean, variance, gamma, beta, eps=EPSILON)
        scale = gamma * torch.rsqrt(variance + EPSILON)
        kernel = kernel * scale.view(-1, 1, 1, 1)
        return functional.conv2d(x, kernel, beta - mean * scale, stride, padding)

    def loss(self, trained: dict, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the cosine classifier."""
        values = {**self.values, **trained}
        kernel = functional.normalize(values["classifier_kernel"], dim=1)
        cosines = functional.normalize(features, dim=1) @ kernel.T
        return functional.cross_entropy(values["classifier_scale"] * cosines, labels)


def estimate(network: Network, case: dict, steps: int) -> torch.Tensor:
    """Unrolls `steps` steps of SGD and differentiates the outer loss by the exemplars."""
    size = (3, case["image_size"], case["image_size"])
    exemplars = torch.randn(case["exemplars"], *size, requires_grad=True)
    labels = torch.randint(case["classes"], (case["exemplars"],))
    outer_images = torch.randn(case["outer_batch"], *size)
    outer_labels = torch.randint(case["classes"], (case["outer_batch"],))
    names = network.scope_names(case["scope"])
    trained = {name: network.values[name].clone().requires_grad_() for name in names}
    # Below the classifier nothing moves: one pass over the exemplars serves all steps.
    fixed = network.features({}, exemplars) if case["scope"] == "classifier" else None
    for _ in range(steps):
        features = network.features(trained, exemplars) if fixed is None else fixed
        loss = network.loss(trained, features, labels)
        gradient = torch.autograd.grad(loss, list(trained.values()), create_graph=True)
        trained = {
            name: value - case["learning_rate"] * part
            for (name, value), part in zip(trained.items(), gradient, strict=True)
        }
    outer_loss = network.loss(trained, network.features(trained, outer_images), outer_labels)
    return torch.autograd.grad(outer_loss, exemplars)[0].cpu()


def peak_megabytes() -> float:
    """Returns the most GPU memory so far or, without a GPU, the largest resident size."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures the case in the first argument."""
    case = json.loads(sys.argv[1])
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    if ON_GPU:  # TensorFlow's default for convolutions and products; PyTorch's for the former
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = True
    network = Network(
        case["depth"],
        case["classes"],
        transfer=case["scope"] == "transfer",
        fold=case["estimator"] == "pytorch_folded",
    )
    imported = peak_megabytes()
    estimate(network, case, steps=1)
    warm = peak_megabytes()
    wall, cpu = time.perf_counter(), time.process_time()
    estimate(network, case, case["steps"])
    measurement = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "imported_megabytes": imported,
        "warm_megabytes": warm,
        "peak_megabytes": peak_megabytes(),
        "version": f"torch {torch.__version__}",
    }
    print(json.dumps(measurement))


if __name__ == "__main__":
    main()
