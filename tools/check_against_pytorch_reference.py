"""One training step of LwF, BiC or LUCIR in PyTorch, in float64; see check_against_pytorch.py.

Reads case.npz from the directory in the first argument and facts as JSON from the second; writes
reference.npz: the parts of the loss (`part:NAME`) and the variables after the step (`model:PATH`).
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTHS = (16, 32, 64)


class Network:
    """ResNet-8 on named weights, without a ReLU at its end, and its classifier."""

    def __init__(self, weights: dict[str, torch.Tensor], transfer: bool):
        self.weights = weights
        self.transfer = transfer

    def convolve(self, x, name: str, stride: int, training: bool):
        """A convolution with batch normalisation."""
        kernel = self.weights[f"{name}/kernel"]
        if self.transfer:
            kernel = kernel * self.weights[f"{name}/transfer_scale"]
        kernel = kernel.permute(3, 2, 0, 1)  # Keras keeps [h, w, in, out]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        normalization = ("moving_mean", "moving_variance", "gamma", "beta")
        values = [self.weights[f"{name}/normalization/{value}"] for value in normalization]
        return functional.batch_norm(x, *values, training=training, momentum=0.1, eps=1e-5)

    def features(self, images, training: bool):
        """Maps `[n, 3, h, w]` to `[n, 64]`."""
        x = functional.relu(self.convolve(images, "stem", 1, training))
        for stage in range(len(WIDTHS)):
            name, stride = f"stage{stage}_block0", 1 if stage == 0 else 2
            y = functional.relu(self.convolve(x, f"{name}_conv1", stride, training))
            y = self.convolve(y, f"{name}_conv2", 1, training)
            x = y + (self.convolve(x, f"{name}_shortcut", stride, training) if stage else x)
            x = functional.relu(x) if stage < len(WIDTHS) - 1 else x
        return x.mean(dim=(2, 3))

    def kernel(self):
        """The classifier's weights, `[classes, d]`."""
        names = ("classifier/old_kernel", "classifier/new_kernel")
        return torch.cat([self.weights[name] for name in names if name in self.weights], 1).T

    def logits(self, features):
        """Linear logits, corrected where there is a correction."""
        logits = functional.linear(features, self.kernel(), self.weights["classifier/bias"])
        if "correction/gain" in self.weights:
            logits = self.weights["correction/gain"] * logits + self.weights["correction/offset"]
        return logits

    def cosines(self, features):
        """Cosines of features and the classifier's weights."""
        return functional.linear(
            functional.normalize(features), functional.normalize(self.kernel())
        )


def distilling_parts(facts, network, features, old_network, old_features, labels):
    """The parts of LwF and BiC."""
    logits, old_logits = network.logits(features), old_network.logits(old_features)
    share = facts["classification_weight"]
    if facts["method"] == "bic":
        share = facts["num_new"] / (facts["num_old"] + facts["num_new"])
    predicted = functional.log_softmax(logits[:, : facts["num_old"]] / facts["temperature"], dim=1)
    targets = functional.softmax(old_logits / facts["temperature"], dim=1)
    entropy = torch.special.entr(targets).sum(1).mean()
    divergence = nn.KLDivLoss(reduction="batchmean")(predicted, targets)
    return {
        "classification": share * functional.cross_entropy(logits, labels),
        "distillation": (1 - share) * (divergence + entropy),
    }


def lucir_parts(facts, network, features, old_network, old_features, labels):
    """The parts of LUCIR."""
    cosines = network.cosines(features)
    factor = facts["less_forget_weight"] * math.sqrt(facts["num_old"] / facts["num_new"])
    old = labels < facts["num_old"]
    hardest = cosines[old][:, facts["num_old"] :].topk(facts["ranking_classes"], dim=1).values
    truth = cosines[old].gather(1, labels[old, None]).expand_as(hardest)
    one = torch.ones(len(features))
    return {
        "classification": functional.cross_entropy(
            network.weights["classifier/scale"] * cosines, labels
        ),
        "less_forget": factor * nn.CosineEmbeddingLoss()(features, old_features, one),
        "margin_ranking": nn.MarginRankingLoss(facts["ranking_margin"])(
            truth, hardest, torch.ones_like(hardest)
        ),
    }


def is_trained(path: str, facts: dict) -> bool:
    """Whether a step changes the variable by its gradient."""
    name = path.split("/")[-1]
    fixed = {"moving_mean", "moving_variance", "gain", "offset"}
    fixed.add("kernel" if facts["transfer"] else "transfer_scale")
    if facts["method"] == "lucir":
        fixed.add("old_kernel")
    return name not in fixed


def main() -> None:
    """Takes the step."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    directory, facts = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    with np.load(directory / "case.npz") as arrays:
        case = {name: torch.tensor(arrays[name]) for name in arrays.files}
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "old": {}}
    for key, value in case.items():
        group, _, path = key.partition(":")
        if path:
            groups[group][path] = value.double()
    network = Network(groups["model"], facts["transfer"])
    old_network = Network(groups["old"], transfer=False)

    trained = {path: v for path, v in groups["model"].items() if is_trained(path, facts)}
    for value in trained.values():
        value.requires_grad_(True)
    spared = ("gamma", "beta")  # no L2 on normalisation
    optimizer = torch.optim.SGD(
        [
            {"params": [v for path, v in trained.items() if not path.endswith(spared)]},
            {
                "params": [v for path, v in trained.items() if path.endswith(spared)],
                "weight_decay": 0.0,
            },
        ],
        facts["learning_rate"],
        momentum=facts["momentum"],
        weight_decay=facts["weight_decay"],
    )
    images, labels = case["images"].permute(0, 3, 1, 2), case["labels"].long()
    with torch.no_grad():
        old_features = old_network.features(images, training=False)
    features = network.features(images, training=True)
    make_parts = lucir_parts if facts["method"] == "lucir" else distilling_parts
    parts = make_parts(facts, network, features, old_network, old_features, labels)
    sum(parts.values()).backward()
    optimizer.step()

    results = {f"part:{name}": part for name, part in parts.items()}
    results |= {f"model:{path}": value for path, value in groups["model"].items()}
    np.savez(
        directory / "reference.npz", **{name: v.detach().numpy() for name, v in results.items()}
    )


if __name__ == "__main__":
    main()
