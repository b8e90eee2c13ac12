"""The demo world: small enough for a laptop, rich enough that a method can go right or wrong in it.

A prompt asks for so many things of two kinds (`name three fruits and two tools`). A good answer lists that many different
items of each kind and nothing else. Writers of mixed quality answer; an annotator with a liking for length prefers one of
two answers; the policy learns from those. In-distribution prompts ask for pairs of kinds that training asked for too. Two
sets lie outside: `ood` asks for pairs of kinds never asked together, `ood_counts` for totals never asked for.

Everything is drawn from `numpy.random.Generator`s seeded by the settings: the same seed, the same world.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from posweep.data.base import Preferences, split_by_prompt
from posweep.fields import scoped
from posweep.records import Example, PreferencePair
from posweep.settings import DemoData

KINDS: dict[str, tuple[str, ...]] = {
    "fruits": ("apple", "pear", "plum", "cherry", "lemon", "grape", "mango", "fig"),
    "tools": ("hammer", "saw", "drill", "wrench", "pliers", "chisel", "file", "clamp"),
    "birds": ("robin", "crow", "owl", "eagle", "finch", "heron", "swan", "gull"),
    "colours": ("red", "blue", "green", "yellow", "purple", "brown", "white", "black"),
    "metals": ("iron", "copper", "gold", "silver", "tin", "zinc", "lead", "nickel"),
    "trees": ("oak", "pine", "birch", "maple", "elm", "ash", "cedar", "willow"),
    "drinks": ("water", "tea", "coffee", "milk", "juice", "cocoa", "cider", "soda"),
    "clothes": ("shirt", "coat", "hat", "scarf", "glove", "sock", "boot", "belt"),
    "animals": ("dog", "cat", "horse", "cow", "goat", "sheep", "fox", "bear"),
    "instruments": ("piano", "violin", "flute", "drum", "harp", "cello", "guitar", "trumpet"),
    "vehicles": ("car", "bus", "train", "boat", "bike", "truck", "tram", "plane"),
    "fish": ("trout", "salmon", "cod", "tuna", "carp", "pike", "eel", "perch"),
    "rooms": ("kitchen", "attic", "cellar", "hall", "study", "pantry", "porch", "garage"),
    "sports": ("tennis", "golf", "rugby", "hockey", "cricket", "rowing", "judo", "chess"),
    "flowers": ("rose", "tulip", "lily", "daisy", "iris", "poppy", "violet", "orchid"),
    "spices": ("pepper", "ginger", "cumin", "clove", "saffron", "nutmeg", "thyme", "basil"),
}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
COUNTS = {word: count for count, word in NUMBERS.items()}
FILLERS = ("well", "sure", "here", "are", "some", "really", "very", "nice", "indeed", "also")
KIND_OF = {item: kind for kind, items in KINDS.items() for item in items}

WORLD = 2
"""Raised when the same settings would make another world."""
HELD_OUT = 600
"""Prompts of each set that training never sees, however many of them are evaluated on."""
TRAINED_TOTAL = 7
"""Training asks for at most this many things; `ood_counts` for more."""
UNSEEN_PAIRS_SHARE = 0.25
"""Share of the unordered pairs of kinds that training never asks for together."""
CERTAINTY = 6.0
"""Log-odds of the annotator's preference per unit of true reward."""
MISTAKE, FILLER = 0.5, 0.02
"""What a wrong, repeated or surplus item, and a filler word, take off the true reward."""


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: how many of which two kinds."""

    first_count: int
    first: str
    second_count: int
    second: str

    @property
    def counts(self) -> dict[str, int]:
        """How many items of each kind are asked for."""
        return {self.first: self.first_count, self.second: self.second_count}

    @property
    def total(self) -> int:
        """How many items are asked for."""
        return self.first_count + self.second_count

    def prompt(self) -> str:
        """The request in words."""
        return f"name {NUMBERS[self.first_count]} {self.first} and {NUMBERS[self.second_count]} {self.second}"

    @classmethod
    def parse(cls, prompt: str) -> Request:
        """The request a prompt of this world makes; ValueError for any other text."""
        words = prompt.split()
        asks = len(words) == 6 and (words[0], words[3]) == ("name", "and")
        if not asks or not {words[1], words[4]} <= {*COUNTS} or not {words[2], words[5]} <= {*KINDS}:
            raise ValueError(f"not a prompt of the demo world: {prompt!r}")
        return cls(COUNTS[words[1]], words[2], COUNTS[words[4]], words[5])


def true_reward(prompt: str, response: str) -> float:
    """(right − 0.5 · mistakes) / asked − 0.02 · fillers; 1 is a perfect answer, 0 an empty one.

    `right` counts different items of the kinds asked for, up to the number asked; every other word that is not a filler is
    a mistake (wrong, repeated or surplus).
    """
    request = Request.parse(prompt)
    left, seen = dict(request.counts), set()
    right = mistakes = fillers = 0
    for word in response.split():
        kind = KIND_OF.get(word, "")
        if word in FILLERS:
            fillers += 1
        elif left.get(kind, 0) > 0 and word not in seen:
            right, left[kind] = right + 1, left[kind] - 1
        else:
            mistakes += 1
        seen.add(word)
    return (right - MISTAKE * mistakes) / request.total - FILLER * fillers


def annotator_utility(prompt: str, response: str, length_bias: float) -> float:
    """What the annotator prefers by, in log-odds: 6 · true reward + length_bias · words."""
    return CERTAINTY * true_reward(prompt, response) + length_bias * len(response.split())


def words() -> list[str]:
    """The vocabulary of the world."""
    return ["name", "and", *NUMBERS.values(), *KINDS, *KIND_OF, *FILLERS]


def fingerprints(settings: DemoData) -> tuple[dict[str, Any], dict[str, Any]]:
    """What determines the training data, and what besides determines the evaluation sets."""
    return {"world": WORLD, **scoped(settings, "train")}, {"world": WORLD, **scoped(settings, "train", "response")}


def load(settings: DemoData) -> Preferences:
    """The whole world of one seed: SFT corpus, labelled pairs, and three evaluation sets."""
    trained, unseen = _kind_pairs(settings.seed)
    small, large = _counts(0, TRAINED_TOTAL), _counts(TRAINED_TOTAL + 1, 2 * max(NUMBERS))
    asked = {"iid": Requests(trained, small), "ood": Requests(unseen, small), "ood_counts": Requests(trained, large)}
    rng = {name: np.random.default_rng([settings.seed, i]) for i, name in enumerate(("sft", "train", *settings.sets))}
    held_out = {
        name: asked[name].different(np.random.default_rng([settings.seed, i, 1]), HELD_OUT)
        for i, name in enumerate(settings.sets)
    }
    evaluation = {
        name: tuple(_pair(rng[name], r, settings.length_bias) for r in requests[: settings.evaluation_prompts])
        for name, requests in held_out.items()
    }
    training = Requests(trained, small, frozenset(request.prompt() for request in held_out["iid"]))
    pairs = [_pair(rng["train"], training.draw(rng["train"]), settings.length_bias) for _ in range(settings.pairs)]
    train, judge = split_by_prompt(pairs, settings.judge_share, settings.seed)
    requests = (training.draw(rng["sft"]) for _ in range(settings.sft_examples))
    sft = tuple(Example(request.prompt(), _answer(rng["sft"], request)) for request in requests)
    return Preferences(train=train, sft=sft, judge=judge, evaluation=evaluation)


# --- who asks


@cache
def _kind_pairs(seed: int) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Unordered pairs of kinds: those training asks for, and those it never asks for together."""
    pairs = list(itertools.combinations(KINDS, 2))
    order = np.random.default_rng([seed, 0xCA7]).permutation(len(pairs))
    cut = round(UNSEEN_PAIRS_SHARE * len(pairs))
    return tuple(pairs[i] for i in order[cut:]), tuple(pairs[i] for i in order[:cut])


def _counts(low: int, high: int) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a in NUMBERS for b in NUMBERS if low <= a + b <= high)


@dataclass(frozen=True)
class Requests:
    """The requests of one set: even over pairs of kinds, their order and counts, but for prompts to avoid."""

    kinds: tuple[tuple[str, str], ...]
    counts: tuple[tuple[int, int], ...]
    avoid: frozenset[str] = frozenset()

    def draw(self, rng: np.random.Generator) -> Request:
        """One request."""
        while True:
            first, second = self.kinds[int(rng.integers(len(self.kinds)))]
            if rng.random() < 0.5:
                first, second = second, first
            first_count, second_count = self.counts[int(rng.integers(len(self.counts)))]
            request = Request(first_count, first, second_count, second)
            if request.prompt() not in self.avoid:
                return request

    def different(self, rng: np.random.Generator, number: int) -> tuple[Request, ...]:
        """`number` requests with different prompts."""
        found: dict[str, Request] = {}
        while len(found) < number:
            request = self.draw(rng)
            found.setdefault(request.prompt(), request)
        return tuple(found.values())


# --- who answers


def _answer(rng: np.random.Generator, request: Request) -> str:
    """The answer of a writer drawn at random: the right kind with probability 0.55–0.95, counts off by −1 … +3, fillers."""
    skill = rng.uniform(0.55, 0.95)
    chatty = rng.random() < 0.5
    text = list(rng.choice(FILLERS, size=rng.integers(1, 5))) if chatty else []
    for kind, count in request.counts.items():
        text += _items(rng, kind, _miscounted(rng, count, skill), skill)
    if chatty and rng.random() < 0.5:
        text += list(rng.choice(FILLERS, size=rng.integers(1, 4)))
    return " ".join(text)


def _miscounted(rng: np.random.Generator, count: int, skill: float) -> int:
    """The count asked for with probability `skill`, otherwise off by −1 … +3; at least one."""
    return count if rng.random() < skill else max(1, count + int(rng.choice((-1, 1, 2, 3))))


def _items(rng: np.random.Generator, kind: str, count: int, skill: float) -> list[str]:
    """`count` items; each of the right kind with probability `skill`, and then new with probability `skill`."""
    items: list[str] = []
    for _ in range(count):
        kind_drawn = kind if rng.random() < skill else list(KINDS)[rng.integers(len(KINDS))]
        fresh = [item for item in KINDS[kind_drawn] if item not in items]
        pool = fresh if fresh and rng.random() < skill else list(KINDS[kind_drawn])
        items.append(pool[rng.integers(len(pool))])
    return items


# --- who prefers


def _pair(rng: np.random.Generator, request: Request, length_bias: float) -> PreferencePair:
    """Two different answers, the preferred one first: a Bradley–Terry annotator of true reward and length."""
    prompt = request.prompt()
    one = other = _answer(rng, request)
    while other == one:
        other = _answer(rng, request)
    margin = annotator_utility(prompt, one, length_bias) - annotator_utility(prompt, other, length_bias)
    prefers_one = rng.random() < 1 / (1 + math.exp(-margin))
    return PreferencePair(prompt, one, other) if prefers_one else PreferencePair(prompt, other, one)
