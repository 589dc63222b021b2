import numpy as np
import pytest

from mnemonics_tf.exemplars.selection import SELECTIONS, select_by_herding, select_random


def random_features(count: int, dimension: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 1, (count, dimension)).astype(np.float32)


def unit(vector) -> list[float]:
    length = sum(float(value) ** 2 for value in vector) ** 0.5
    return [float(value) / length for value in vector]


def herd_by_trying_all(features: np.ndarray, count: int) -> list[int]:
    """At every step try each image that is left, and measure the mean of all chosen with it."""
    units = [unit(row) for row in features]
    target = np.mean(units, axis=0)
    chosen: list[int] = []
    for _ in range(count):
        distances = {}
        for candidate in set(range(len(units))) - set(chosen):
            mean = np.mean([units[i] for i in [*chosen, candidate]], axis=0)
            distances[candidate] = np.sum((mean - target) ** 2)
        chosen.append(min(distances, key=distances.get))
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 7, 30])
def test_herding_is_the_greedy_choice(seed, count):
    features = random_features(30, seed=seed)
    assert select_by_herding(features, count).tolist() == herd_by_trying_all(features, count)


def test_herding_sees_directions_only():
    features = random_features(20)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (20, 1)).astype(np.float32)
    expected = select_by_herding(features, 10).tolist()
    assert select_by_herding(features * lengths, 10).tolist() == expected


def test_herding_takes_no_image_twice_and_begins_the_same_for_any_number():
    features = np.concatenate([random_features(10)] * 2)  # every image has a double
    everything = select_by_herding(features, 20).tolist()
    assert sorted(everything) == list(range(20))
    assert select_by_herding(features, 5).tolist() == everything[:5]


def test_herding_comes_nearer_to_the_mean_direction_than_chance():
    features = random_features(100, 16)
    units = np.array([unit(row) for row in features])

    def cosine(chosen):
        return np.dot(unit(units[chosen].mean(axis=0)), unit(units.mean(axis=0)))

    generator = np.random.default_rng(0)
    by_chance = [cosine(select_random(features, 10, generator)) for _ in range(50)]
    assert cosine(select_by_herding(features, 10)) > max(by_chance)


def test_random_choice_depends_on_the_generator_only():
    first = select_random(random_features(50), 10, np.random.default_rng(3))
    again = select_random(random_features(50, seed=1), 10, np.random.default_rng(3))
    other = select_random(random_features(50), 10, np.random.default_rng(4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert len(set(first.tolist())) == 10
    assert first.tolist() != sorted(first.tolist())


@pytest.mark.parametrize("name", SELECTIONS)
def test_all_images_can_be_chosen(name):
    chosen = SELECTIONS[name](random_features(8), 8, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == list(range(8))
