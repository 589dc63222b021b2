"""Flag files hold what their comments claim."""

import fnmatch
import pathlib
import re

from mnemonics_tf.exemplars.budget import Budget, make_budget
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.phases.coded_share import coded_share
from mnemonics_tf.settings import by_name

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_flag_file_of_the_paper_s_letter(parse, monkeypatch):
    """Section 4 and the hyperparameters of Section 5.1, as the paper's text gives them."""
    monkeypatch.chdir(ROOT)
    settings = settings_from_flags(parse("--flagfile=configs/cifar100_mnemonics_literal.flags"))
    named = by_name(settings.results_settings())
    new_images, batch, epochs, subsets = 50 * 500, 128, 50, 2
    text = {
        "exemplars_per_class": 20,
        "mnemonics_start": "random",  # "initialized by a random sample subset S of D_i"
        "inner_start": "model",  # "we initialize a temporary model by Theta_i"
        "inner_scope": "all",
        "inner_steps": epochs,  # "gradient descent ... in 50 epochs (as in Eq. 8)"
        "inner_batch_size": 0,
        "exemplars_per_step": 0,
        "inner_momentum": 0,
        "inner_learning_rate": 0.01,  # "alpha_2 is set to 0.01"
        "inner_augmentation": False,
        "meta_gradient": "sweep",  # "through unrolling all training gradients"
        "objective": "unrolled_training",
        "outer_optimizer": "sgd",
        "outer_momentum": 0,
        "gradient_scale": 1,
        "outer_steps": epochs * -(-new_images // batch),
        "outer_batch_size": batch,
        "outer_learning_rate": 0.01,  # "beta_1 and beta_2 are initialized as 0.01 uniformly"
        "outer_halvings": 4,  # "reduced to their half each 10 epochs"
        "train_beside_old": False,  # Eq. 7
        "validation_share": 0,  # D_i is all there is, and no step of E_i is chosen over the last
        "adjust_old_exemplars": True,
        "adjust_subsets": subsets,
        "adjust_steps": epochs * subsets,
        "adjust_learning_rate": 0.01,
        "weight_transfer": True,
        "depth": 32,
        "finetune_base_phase": True,  # Algorithm 1, line 18
        "finetune_epochs": epochs,  # "the same hyperparameters ... when fine-tuning Theta_i"
        "finetune_learning_rate": 0.01,
        "base_epochs": 160,
        "epochs": 160,
        "learning_rate": 0.1,
        "learning_rate_milestones": [80 / 160, 120 / 160],
        "learning_rate_decay": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "classification_weight": 0.5,
        "temperature": 2,
    }
    assert {name: named[name] for name in text} == text


def test_the_flag_file_of_memory_in_bytes(parse, monkeypatch):
    """As many bytes as the paper's 20 exemplars of 32 x 32 pixels; no other budget beside them."""
    monkeypatch.chdir(ROOT)
    settings = settings_from_flags(parse("--flagfile=configs/cifar100_bytes.flags"))
    assert make_budget(settings.exemplar) == Budget(bytes_per_class=20 * 32 * 32 * 3)
    assert coded_share(settings.exemplar) == 0.5
    assert settings.training.replay_per_class == 20


def test_the_demonstration_keeps_little_and_has_something_to_learn(parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = settings_from_flags(parse("--flagfile=configs/digits_demo.flags"))
    protocol = settings.protocol
    assert protocol.dataset == "digits"
    # One or two new classes alone stay as chosen.
    assert (10 - protocol.base_classes) / protocol.num_phases >= 3
    assert settings.exemplar.exemplars_per_class <= 2


def test_what_the_documents_commands_write_is_ignored():
    """Or it would be committed along with a reader's work."""
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    texts = [path.read_text("utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))]
    writes = r"""(?:np\.savez?\(|open\(|--output[= ])['"]?([\w.]+)"""
    names = {name for text in texts for name in re.findall(writes, text, re.MULTILINE)}
    assert {"images.npy", "new.npz", "scores.tflite", "scores.onnx", "report.html"} <= names
    patterns = [line.lstrip("/") for line in ignored]
    left = [n for n in names if not any(fnmatch.fnmatch(n, p) for p in patterns)]
    assert not left
