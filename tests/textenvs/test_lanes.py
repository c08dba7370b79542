"""The transition, against states worked out by hand: prompts, budgets, EOS, special tokens, cuts, randomness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.textenvs.helpers import (
    BOS,
    E_ACUTE,
    EOS,
    FIRST,
    PAD,
    SPECIAL,
    Letters,
    Talk,
    Toy,
    constant,
    ids,
    text_length,
)
from textenvs import Example, RewardError, make_reward
from textenvs.lanes import Lanes
from textenvs.pool import PromptEncoder, alias_table, build_pools
from textenvs.rewards import UnitSums, Words
from textenvs.seeding import episode_random, seeds_of

LETTERS = Letters()
A, B = FIRST["a"], FIRST["b"]


def make_lanes(num_lanes: int = 1, budget: int = 4, reward=text_length, payout="immediate", **kwargs) -> Lanes:
    task, tokenizer = kwargs.pop("task", Toy()), kwargs.pop("tokenizer", LETTERS)
    pool = build_pools(task, PromptEncoder(tokenizer))["train"]
    lanes = Lanes(num_lanes, task, pool, tokenizer, make_reward(reward), payout, budget, **kwargs)
    lanes.seed(lanes.all, seeds_of(0, num_lanes))
    return lanes


def push(lanes: Lanes, *actions: int) -> list[float]:
    """Write actions into all lanes (the same in each), and give lane 0's rewards."""
    return [float(lanes.step(lanes.all, np.full(lanes.num_lanes, action))[0]) for action in actions]


def test_a_row_by_hand() -> None:
    lanes = make_lanes()
    lanes.reset(lanes.all, np.array([0]))
    assert lanes.input_ids.tolist() == [[BOS, *ids("abc"), PAD, PAD, PAD, PAD]]
    assert lanes.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert lanes.response_mask.tolist() == [[0] * 8]
    assert push(lanes, A, FIRST["good"]) == [1.0, 4.0]
    assert lanes.input_ids.tolist() == [[BOS, *ids("abc"), A, FIRST["good"], PAD, PAD]]
    assert lanes.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert lanes.response_mask.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    assert (lanes.length[0], lanes.response_length[0], lanes.score[0], lanes.terminated[0]) == (6, 2, 5.0, False)
    assert (lanes.response(0), lanes.response_ids(0)) == ("agood", [A, FIRST["good"]])


def test_a_reset_leaves_nothing_of_the_episode_before() -> None:
    lanes = make_lanes(keep_rewards=True, success_score=1.0)
    fresh = make_lanes(keep_rewards=True, success_score=1.0)
    lanes.reset(lanes.all, np.array([0]))
    push(lanes, A, B, EOS)
    assert lanes.success[0]
    for each in (lanes, fresh):
        each.reset(each.all, np.array([1]))
    for name in ("input_ids", "attention_mask", "response_mask", "length", "response_length", "terminated", "score"):
        assert getattr(lanes, name).tolist() == getattr(fresh, name).tolist(), name
    assert not lanes.success.any()
    assert not lanes.token_rewards.any()
    assert push(lanes, A, A) == push(fresh, A, A) == [1.0, 1.0]


EPISODES = st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, LETTERS.vocab_size - 1), max_size=6)))


@pytest.mark.parametrize("task", [Toy(), Talk()], ids=lambda task: task.name)
@given(episodes=EPISODES)
def test_a_reset_clears_what_any_episode_wrote(task: Toy, episodes: list[tuple[int, list[int]]]) -> None:
    lanes = make_lanes(2, budget=6, task=task)
    for example, tokens in episodes:
        lanes.reset(lanes.all, np.array([example, 0]))
        for token in tokens:
            running = np.flatnonzero(~lanes.terminated)
            lanes.step(running, np.full(len(running), token))
            if lanes.terminated.all():
                break
    fresh = make_lanes(2, budget=6, task=task)
    for each in (lanes, fresh):
        each.reset(each.all, np.array([1, 2]))
    for name in ("input_ids", "attention_mask", "response_mask", "length", "context_length", "response_length"):
        assert getattr(lanes, name).tolist() == getattr(fresh, name).tolist(), name


@pytest.mark.parametrize("payout", ["immediate", "sparse", {"delayed": 2}])
@given(tokens=st.lists(st.integers(0, LETTERS.vocab_size - 1), min_size=1, max_size=8))
def test_one_lane_by_its_number_moves_as_one_in_an_array(payout: object, tokens: list[int]) -> None:
    kwargs = {"budget": 6, "task": Talk(), "payout": payout, "keep_rewards": True, "action_mask": "task"}
    one, other = make_lanes(3, **kwargs), make_lanes(3, **kwargs)
    for each in (one, other):
        each.reset(each.all)
    for token in tokens:
        if one.terminated[1]:
            break
        paid = one.step(1, token)
        assert type(paid) is float
        assert [paid] == other.step(np.array([1]), np.array([token])).tolist()
    for name in ("input_ids", "attention_mask", "response_mask", "length", "terminated", "score", "token_rewards"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
    assert one.action_masks(one.all).tolist() == other.action_masks(other.all).tolist()


def test_texts_and_examples_of_many_lanes_are_those_of_each() -> None:
    lanes = make_lanes(3, task=Talk(), budget=6)
    lanes.reset(lanes.all)
    lanes.reset(np.array([1]), [Example("ba")])
    for actions in ([A, E_ACUTE[0], SPECIAL], [EOS, E_ACUTE[1], FIRST["good"]], [B, E_ACUTE[0], A]):
        lanes.step(lanes.all, np.array(actions))
    assert lanes.responses(lanes.all) == ["a\nb", "é", "gooda"] == [lanes.response(lane) for lane in range(3)]
    assert lanes.responses(np.array([2, 0])) == ["gooda", "a\nb"]
    assert lanes.examples(lanes.all) == [lanes.example(lane) for lane in range(3)]
    assert lanes.examples(lanes.all)[1] == Example("ba")
    assert lanes.examples(np.array([2, 0])) == [lanes.example(2), lanes.example(0)]


def test_parts_of_a_sparse_score_are_zero_again_after_a_reset() -> None:
    lanes = make_lanes(reward={"length": 1.0, "sentiment": 1.0}, payout="sparse")
    lanes.reset(lanes.all)
    push(lanes, A, EOS)
    assert lanes.part_scores(lanes.all)["length"][0] == pytest.approx(1 / 20)
    lanes.reset(lanes.all)
    assert [scores.tolist() for scores in lanes.part_scores(lanes.all).values()] == [[0.0], [0.0]]


def test_eos_ends_is_counted_and_is_rewarded() -> None:
    lanes = make_lanes(reward=constant)
    lanes.reset(lanes.all)
    assert push(lanes, EOS) == [1.0]  # Phi_0 is 0, so the first token earns what the empty text is worth
    assert (lanes.terminated[0], lanes.response_length[0], lanes.response(0)) == (True, 1, "")
    assert lanes.response_mask.sum() == 1
    sparse = make_lanes(payout="sparse")
    sparse.reset(sparse.all)
    assert push(sparse, A, EOS) == [0.0, 1.0]


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_the_budget_ends_an_episode(payout: str) -> None:
    lanes = make_lanes(budget=3, payout=payout)
    lanes.reset(lanes.all)
    rewards = []
    for step in range(3):
        assert not lanes.terminated[0], step
        rewards += push(lanes, A)
    assert lanes.terminated[0]
    assert sum(rewards) == 3.0
    assert lanes.response_mask.sum() == lanes.response_length[0] == 3


@pytest.mark.parametrize("action", [A, EOS, PAD, SPECIAL])
def test_a_budget_of_one(action: int) -> None:
    lanes = make_lanes(budget=1, reward=constant, payout="sparse")
    lanes.reset(lanes.all)
    assert push(lanes, action) == [1.0]
    assert lanes.terminated[0]


def test_pad_equal_to_eos_is_told_apart_by_the_masks() -> None:
    lanes = make_lanes(tokenizer=Letters(pad_is_eos=True))
    lanes.reset(lanes.all, np.array([0]))
    assert not lanes.terminated[0]
    push(lanes, A, EOS)
    assert lanes.input_ids.tolist() == [[BOS, *ids("abc"), A, EOS, EOS, EOS]]
    assert lanes.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert lanes.response_mask.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    assert lanes.terminated[0]


@pytest.mark.parametrize("special", [PAD, BOS, SPECIAL])
def test_a_special_token_inside_a_response_shifts_nothing_and_is_not_printed(special: int) -> None:
    lanes = make_lanes()
    lanes.reset(lanes.all, np.array([1]))
    assert push(lanes, A, special, B) == [1.0, 0.0, 1.0]
    assert lanes.input_ids[0, :5].tolist() == [BOS, FIRST["d"], A, special, B]
    assert lanes.response_mask[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert lanes.response(0) == "ab"
    assert not lanes.terminated[0]


def test_a_character_that_splits_over_tokens_is_held_back() -> None:
    lanes = make_lanes()
    lanes.reset(lanes.all)
    assert push(lanes, A, E_ACUTE[0]) == [1.0, 0.0]
    assert lanes.response(0) == "a"
    assert push(lanes, E_ACUTE[1]) == [1.0]
    assert lanes.response(0) == "aé"


def test_a_prompt_that_holds_eos_begins_as_any_other() -> None:
    lanes = make_lanes(task=Toy(train=("a$b", "c$")))
    lanes.reset(lanes.all, np.array([1]))
    assert lanes.input_ids[0].tolist() == [BOS, FIRST["c"], EOS, PAD, PAD, PAD, PAD, PAD]
    assert not lanes.terminated[0]
    push(lanes, A)
    assert (lanes.terminated[0], lanes.response(0)) == (False, "a")


def test_an_empty_prompt_is_bos() -> None:
    lanes = make_lanes()
    lanes.reset(lanes.all, np.array([2]))
    assert lanes.length[0] == 1
    assert lanes.input_ids[0, 0] == BOS


def test_lanes_do_not_touch_each_other() -> None:
    lanes = make_lanes(num_lanes=3)
    lanes.reset(lanes.all, np.array([0, 1, 2]))
    before = lanes.input_ids.copy()
    rewards = lanes.step(np.array([2, 0]), np.array([FIRST["good"], EOS]))
    assert rewards.tolist() == [4.0, 0.0]
    assert lanes.terminated.tolist() == [True, False, False]
    assert lanes.response_length.tolist() == [1, 0, 1]
    assert lanes.input_ids[1].tolist() == before[1].tolist()
    lanes.reset(np.array([0]), np.array([1]))
    assert lanes.response(2) == "good"


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
@pytest.mark.parametrize("score", [float("nan"), float("inf"), "much"])
def test_a_bad_score_names_reward_example_and_response(payout: str, score: object) -> None:
    def broken(example: Example, response: str) -> float:
        return score  # type: ignore[return-value]

    lanes = make_lanes(reward=broken, payout=payout, budget=1)
    lanes.reset(lanes.all, np.array([0]))
    with pytest.raises(RewardError, match=r"'broken' gave (?s:.*)prompt='abc'(?s:.*)response: 'good'"):
        push(lanes, FIRST["good"])


class Fragile(UnitSums):
    """Words, of which "ab" cannot be read, over lanes whose scorer can be told to give something wrong."""

    name = "fragile"
    splitter = Words()
    wrong: object = None

    def read(self, memory: object, unit: str) -> tuple[None, tuple[float, ...]]:
        if unit == "ab":
            raise KeyError(unit)
        return None, (1.0,)

    def features(self, example: Example) -> tuple[float, ...]:
        return (1.0 / len(example.prompt),)

    def phi(self, sums: np.ndarray, features: np.ndarray) -> np.ndarray:
        return sums[:, 0] * features[:, 0] if self.wrong is None else self.wrong


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_a_scorer_that_raises_names_the_lane_it_failed_on(payout: str) -> None:
    lanes = make_lanes(3, reward=Fragile(), payout=payout, budget=3)

    def play(examples: list[int], *steps: list[int]) -> None:
        lanes.reset(lanes.all, np.array(examples))
        for actions in steps:
            lanes.step(lanes.all, np.array(actions))

    with pytest.raises(RewardError, match=r"'fragile' raised KeyError: 'ab'(?s:.*)prompt='d'(?s:.*)response: 'ab'"):
        play([0, 1, 0], [A, A, B], [A, B, B], [EOS, EOS, EOS])
    with pytest.raises(RewardError, match=r"raised ZeroDivisionError(?s:.*)prompt=''"):
        play([0, 2, 1], [EOS, EOS, EOS])


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
@pytest.mark.parametrize("wrong", [1.0, np.zeros(3), np.zeros((2, 1)), np.zeros(2, dtype=np.int64), [0.0, 0.0]])
def test_a_scorer_that_gives_no_number_a_lane(payout: str, wrong: object) -> None:
    reward = Fragile()
    reward.wrong = wrong
    lanes = make_lanes(2, reward=reward, payout=payout, budget=1)
    lanes.reset(lanes.all, np.array([0, 1]))
    with pytest.raises(RewardError, match=r"'fragile' has a scorer that should give float64 \(2,\), one a lane"):
        push(lanes, A)


@pytest.mark.parametrize("action", [-1, LETTERS.vocab_size])
def test_an_action_out_of_range_changes_nothing(action: int) -> None:
    lanes = make_lanes(num_lanes=2)
    lanes.reset(lanes.all)
    before = lanes.input_ids.copy()
    with pytest.raises(ValueError, match=rf"token ids from 0 to {LETTERS.vocab_size - 1}, got {action}"):
        lanes.step(lanes.all, np.array([A, action]))
    assert (lanes.input_ids == before).all()
    assert not lanes.response_length.any()


class TestPools:
    def test_both_sides(self) -> None:
        task = Toy(train=("abc", "d"), test=("xyz",))
        left, right = (build_pools(task, PromptEncoder(LETTERS, 2, side)) for side in ("left", "right"))
        assert left["train"].prompts.tolist() == [ids("bc"), [BOS, FIRST["d"]]]
        assert right["train"].prompts.tolist() == [[BOS, FIRST["a"]], [BOS, FIRST["d"]]]
        assert left["test"].prompts.tolist() == [ids("yz")]
        assert right["test"].prompts.tolist() == [[BOS, FIRST["x"]]]

    def test_a_prompt_as_long_as_the_context_is_kept_whole(self) -> None:
        pool = build_pools(Toy(train=("abc",)), PromptEncoder(LETTERS, 4))["train"]
        assert pool.prompts.tolist() == [[BOS, *ids("abc")]]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_splits_never_share_a_prompt_that_was_cut(self, side: str) -> None:
        task = Toy(train=("aabaa", "bb"), test=("aacaa", "ab", "cc"))
        pools = build_pools(task, PromptEncoder(LETTERS, 2, side))
        train, test = ({tuple(row) for row in pools[split].prompts.tolist()} for split in ("train", "test"))
        assert train
        assert test
        assert not train & test
        assert [len(pool.examples) == len(pool.prompts) == len(pool.lengths) for pool in pools.values()] == [True, True]

    def test_a_prompt_that_a_tokenizer_makes_nothing_of_is_bos(self) -> None:
        tokenizer = Letters()
        tokenizer.encode_batch = lambda texts: [ids(text) for text in texts]  # type: ignore[method-assign]
        pool = build_pools(Toy(train=("", "a")), PromptEncoder(tokenizer))["train"]
        assert pool.prompts.tolist() == [[BOS, PAD], [A, PAD]]

    def test_no_examples_and_bad_numbers(self) -> None:
        with pytest.raises(ValueError, match="'toy' to have at least one example"):
            build_pools(Toy(train=(), test=()), PromptEncoder(LETTERS))
        with pytest.raises(ValueError, match="'left', 'right' or 'middle', got 'centre'"):
            PromptEncoder(LETTERS, 2, "centre")
        with pytest.raises(ValueError, match="max_prompt_length to be at least 1, got 0"):
            PromptEncoder(LETTERS, 0)

    def test_what_environments_share_cannot_be_written(self) -> None:
        pool = build_pools(Toy(), PromptEncoder(LETTERS))["train"]
        with pytest.raises(ValueError, match="read-only"):
            pool.prompts[0, 0] = 7


class Weighted(Toy):
    """Draws each example as often as its place says."""

    def weights(self, split: str) -> list[float]:
        return [float(place) for place in range(self.num_examples(split))]


class TestWeights:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(any))
    def test_the_table_gives_each_its_share(self, weights: list[float]) -> None:
        thresholds, aliases = alias_table(weights)
        kept = thresholds / 2**32
        shares = kept.copy()
        np.add.at(shares, aliases, 1 - kept)
        assert shares / len(weights) == pytest.approx(np.array(weights) / sum(weights), abs=1e-8)
        assert all(shares[place] == 0 for place, weight in enumerate(weights) if not weight)

    def test_examples_are_drawn_by_weight(self) -> None:
        task = Weighted(train=("a", "b", "c", "d"), test=("x", "y"))
        lanes = make_lanes(num_lanes=6000, task=task, payout="sparse")
        lanes.reset(lanes.all)
        counts = np.bincount(lanes.example_index, minlength=4)
        assert counts[0] == 0
        assert ((counts[1:] - [1000, 2000, 3000]) ** 2 / [1000, 2000, 3000]).sum() < 25  # chi-square, p is about 4e-6

    def test_weights_follow_the_examples_that_a_cut_leaves(self) -> None:
        task = Weighted(train=("xa",), test=("ba", "cb", "dc"))
        task.weights = lambda split: [1.0] if split == "train" else [1.0, 0.0, 1.0]  # type: ignore[method-assign]
        pool = build_pools(task, PromptEncoder(LETTERS, 1))["test"]
        assert [example.prompt for example in pool.examples] == ["cb", "dc"]
        bits = episode_random(np.zeros(50, dtype=np.uint64), np.arange(50, dtype=np.uint64))
        assert pool.draw(bits).tolist() == [1] * 50

    def test_what_has_no_weight_is_never_drawn(self) -> None:
        pool = build_pools(Weighted(train=("a", "b", "c", "d")), PromptEncoder(LETTERS))["train"]
        assert pool.draw(np.array([0], dtype=np.uint64)).tolist() != [0]  # the place is 0, and so is the lower half

    @pytest.mark.parametrize("weights", [[1.0], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [[1, 1, 1]]])
    def test_bad_weights(self, weights: list[float]) -> None:
        task = Toy()
        task.weights = lambda split: weights  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="weights of task 'toy' in split 'train' as 3 numbers"):
            build_pools(task, PromptEncoder(LETTERS))


class TestMinimumAndStops:
    def test_eos_before_the_minimum_is_a_special_token_like_any_other(self) -> None:
        lanes = make_lanes(min_new_tokens=2)
        lanes.reset(lanes.all)
        assert push(lanes, EOS, A) == [0.0, 1.0]
        assert (lanes.terminated[0], lanes.response_length[0]) == (False, 2)
        push(lanes, EOS)
        assert (lanes.terminated[0], lanes.response_length[0], lanes.response(0)) == (True, 3, "a")

    def test_eos_is_not_one_of_the_minimum(self) -> None:
        lanes = make_lanes(min_new_tokens=2)
        lanes.reset(lanes.all)
        push(lanes, A, EOS)  # as in Transformers, EOS may come once there are two tokens before it
        assert not lanes.terminated[0]
        push(lanes, EOS)
        assert lanes.terminated[0]

    def test_a_minimum_as_large_as_the_budget(self) -> None:
        lanes = make_lanes(budget=2, min_new_tokens=2)
        lanes.reset(lanes.all)
        push(lanes, EOS)
        assert not lanes.terminated[0]
        push(lanes, EOS)
        assert lanes.terminated[0]

    @pytest.mark.parametrize("payout", ["immediate", "sparse"])
    def test_a_stop_sequence_ends_and_stays_in_the_text(self, payout: str) -> None:
        lanes = make_lanes(num_lanes=2, stop=["b.", "\n"], payout=payout)
        lanes.reset(lanes.all)
        lanes.step(lanes.all, np.array([FIRST["ab"], FIRST["."]]))
        assert lanes.terminated.tolist() == [False, False]  # "b" alone, and "." alone
        lanes.step(lanes.all, np.array([FIRST["."], A]))
        assert lanes.terminated.tolist() == [True, False]
        assert (lanes.response(0), lanes.score[0]) == ("ab.", 3.0)
        lanes.step(np.array([1]), np.array([FIRST["\n"]]))
        assert lanes.terminated.tolist() == [True, True]

    def test_a_stop_sequence_before_the_minimum_is_text(self) -> None:
        lanes = make_lanes(stop=["."], min_new_tokens=2)
        lanes.reset(lanes.all)
        push(lanes, FIRST["."])
        assert not lanes.terminated[0]
        push(lanes, A)
        assert not lanes.terminated[0]  # it was completed too early, and is not completed again
        push(lanes, FIRST["."])
        assert lanes.terminated[0]

    def test_a_new_episode_forgets_half_a_stop_sequence(self) -> None:
        lanes = make_lanes(stop=["ab"])
        lanes.reset(lanes.all)
        push(lanes, A)
        lanes.reset(lanes.all)
        push(lanes, B)
        assert not lanes.terminated[0]


def legal(lanes: Lanes, lane: int = 0) -> set[int]:
    masks = lanes.action_masks(np.array([lane]))
    assert masks is not None
    assert masks.dtype == np.int8
    return set(np.flatnonzero(masks[0]).tolist())


class TestActionMasks:
    def test_nothing_is_masked_unless_asked(self) -> None:
        lanes = make_lanes()
        lanes.reset(lanes.all)
        assert lanes.action_masks(lanes.all) is None

    def test_an_episode_under_a_mask(self) -> None:
        lanes = make_lanes(action_mask=["ab", "b"])
        lanes.reset(lanes.all)
        assert legal(lanes) == {A, B, FIRST["ab"]}
        push(lanes, A)
        assert legal(lanes) == {B}
        push(lanes, B)
        assert legal(lanes) == {EOS}
        push(lanes, EOS)
        assert lanes.terminated[0]
        lanes.reset(lanes.all)
        assert legal(lanes) == {A, B, FIRST["ab"]}

    def test_after_the_budget_there_is_eos_alone(self) -> None:
        lanes = make_lanes(budget=1, action_mask=["ab"])
        lanes.reset(lanes.all)
        push(lanes, A)
        assert legal(lanes) == {EOS}

    def test_a_token_that_was_not_allowed_is_written_all_the_same(self) -> None:
        lanes = make_lanes(action_mask={"regex": "a+"})
        lanes.reset(lanes.all)
        assert push(lanes, B) == [1.0]
        assert legal(lanes) == {EOS}
        assert not lanes.terminated[0]

    def test_the_minimum_masks_eos(self) -> None:
        everything = set(range(LETTERS.vocab_size))
        lanes = make_lanes(min_new_tokens=1)
        lanes.reset(lanes.all)
        assert legal(lanes) == everything - {EOS}
        push(lanes, A)
        assert legal(lanes) == everything

    def test_the_minimum_gives_way_where_nothing_else_may_come(self) -> None:
        lanes = make_lanes(min_new_tokens=3, action_mask={"regex": "a*"})
        lanes.reset(lanes.all)
        assert legal(lanes) == {A}
        lanes = make_lanes(min_new_tokens=3, action_mask=["a"])
        lanes.reset(lanes.all)
        push(lanes, A)
        assert legal(lanes) == {EOS}

    def test_what_the_task_allows_in_each_turn(self) -> None:
        lanes = make_lanes(num_lanes=2, task=Talk(), budget=12, action_mask="task")
        lanes.reset(lanes.all)
        assert legal(lanes) == {A}
        push(lanes, A, EOS)
        assert legal(lanes) == {B}
        lanes.step(np.array([1]), np.array([B]))
        assert (legal(lanes), legal(lanes, 1)) == ({B}, {B, EOS})
        lanes.step(np.array([1]), np.array([EOS]))
        assert legal(lanes, 1) == set(range(LETTERS.vocab_size))
        lanes.reset(np.array([1]))
        assert (legal(lanes), legal(lanes, 1)) == ({B}, {A})


class TestTurns:
    def test_a_talk_by_hand(self) -> None:
        lanes = make_lanes(task=Talk(), budget=12)
        assert lanes.max_length == 4 + 12 + 2 * 4
        lanes.reset(lanes.all, np.array([1]))
        assert push(lanes, A, EOS) == [1.0, 1.0]  # each EOS is a newline in the text that is scored
        assert not lanes.terminated[0]
        row = [BOS, *ids("d"), A, EOS, *ids("dxy")]
        assert lanes.input_ids[0, : lanes.length[0]].tolist() == row
        assert lanes.attention_mask[0].tolist() == [1] * 7 + [0] * 17
        assert lanes.response_mask[0, :8].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
        assert (lanes.response_length[0], lanes.response(0), lanes.score[0]) == (2, "a\n", 2.0)
        push(lanes, B, B, EOS)
        row += [B, B, EOS, *ids("dxyy")]
        assert lanes.input_ids[0, : lanes.length[0]].tolist() == row
        assert lanes.response_ids(0) == [A, EOS, B, B, EOS]
        push(lanes, EOS)  # the third turn, the last one, says nothing
        assert lanes.terminated[0]
        assert lanes.input_ids[0, : lanes.length[0]].tolist() == [*row, EOS]
        assert lanes.response(0) == "a\nbb\n\n"

    def test_turns_reach_the_task_and_do_not_outlive_the_episode(self) -> None:
        task, heard = Talk(), []
        task.reply = lambda example, turns: heard.append((example.prompt, turns)) or "x"  # type: ignore[method-assign]
        lanes = make_lanes(num_lanes=2, task=task, budget=12)
        lanes.reset(lanes.all, np.array([0, 1]))
        push(lanes, A, SPECIAL, E_ACUTE[0], E_ACUTE[1], EOS)
        lanes.reset(np.array([0]), np.array([0]))
        push(lanes, B, EOS)
        assert heard == [("abc", ("aé",)), ("d", ("aé",)), ("abc", ("b",)), ("d", ("aé", "b"))]

    def test_the_task_may_end_it(self) -> None:
        lanes = make_lanes(task=Talk(), budget=12)
        lanes.reset(lanes.all)
        push(lanes, *ids("stop"), EOS)
        assert lanes.terminated[0]
        assert lanes.response_mask.sum() == 5

    def test_the_budget_counts_the_agents_tokens_alone(self) -> None:
        lanes = make_lanes(task=Talk(), budget=3)
        lanes.reset(lanes.all)
        push(lanes, EOS)
        assert lanes.length[0] > 3
        push(lanes, A, EOS)  # the budget is spent at the end of a turn: no reply follows
        assert lanes.terminated[0]
        assert lanes.input_ids[0, lanes.length[0] - 1] == EOS
        assert lanes.response_length[0] == 3

    def test_the_longest_talk_fits(self) -> None:
        task = Talk()
        task.reply = lambda example, turns: "xxxx"  # type: ignore[method-assign]
        lanes = make_lanes(task=task, budget=5)
        lanes.reset(lanes.all, np.array([0]))
        push(lanes, EOS, EOS, A, A, A)
        assert lanes.length[0] == lanes.max_length
        assert lanes.terminated[0]
        assert make_lanes(task=task, budget=2).max_length == 4 + 2 + 4  # no third turn

    def test_a_reply_that_is_too_long(self) -> None:
        task = Talk(max_reply_tokens=2)
        lanes = make_lanes(task=task, budget=5)
        lanes.reset(lanes.all, np.array([0]))
        with pytest.raises(
            ValueError, match=r"'talk' to reply with at most max_reply_tokens=2 tokens, or .*, got 3: 'axy'"
        ):
            push(lanes, EOS)

    @pytest.mark.parametrize("payout", ["immediate", "sparse", "word", {"every": 2}])
    def test_payouts_pay_the_score(self, payout: object) -> None:
        lanes = make_lanes(task=Talk(), budget=12, payout=payout)
        lanes.reset(lanes.all)
        assert sum(push(lanes, A, EOS, B, B, EOS, A, EOS)) == len("a\nbb\na\n")

    def test_the_end_of_a_turn_ends_a_word(self) -> None:
        lanes = make_lanes(task=Talk(), budget=12, payout="word")
        lanes.reset(lanes.all)
        *before, at_its_end = push(lanes, A, A, EOS)
        assert before == [0.0, 0.0]
        assert at_its_end >= 2.0


class TestRandomness:
    def test_the_stream_is_frozen(self) -> None:
        seeds, episodes = np.array([0, 0, 1, 2**63], dtype=np.uint64), np.array([0, 1, 0, 5], dtype=np.uint64)
        assert episode_random(seeds, episodes).tolist() == [
            11309818405589028606,
            13691739563299450079,
            16073369011956975135,
            14096456208055948498,
        ]

    @given(seed=st.integers(0, 2**64 - 1), episode=st.integers(0, 2**40))
    def test_it_is_elementwise(self, seed: int, episode: int) -> None:
        one = episode_random(np.array([seed], dtype=np.uint64), np.array([episode], dtype=np.uint64))
        two = episode_random(np.array([7, seed], dtype=np.uint64), np.array([3, episode], dtype=np.uint64))
        assert one[0] == two[1]

    @pytest.mark.parametrize("axis", ["seed", "episode"])
    def test_it_is_uniform_along_seeds_and_along_episodes(self, axis: str) -> None:
        count, zeros = np.arange(20_000, dtype=np.uint64), np.zeros(20_000, dtype=np.uint64)
        bits = episode_random(count, zeros) if axis == "seed" else episode_random(zeros, count)
        observed = np.bincount((bits >> np.uint64(58)).astype(int), minlength=64)
        assert ((observed - 312.5) ** 2 / 312.5).sum() < 120  # chi-square, 63 degrees of freedom: p is about 1e-5

    def test_seeds_of_lanes_and_groups(self) -> None:
        assert seeds_of(5, 4).tolist() == [5, 6, 7, 8]
        assert seeds_of(5, 4, group_size=2).tolist() == [5, 5, 6, 6]
        assert seeds_of([3, 1], 2).tolist() == [3, 1]
        assert seeds_of(2**64 - 1, 2).tolist() == [2**64 - 1, 0]

    def test_every_example_is_drawn(self) -> None:
        lanes = make_lanes(num_lanes=200)
        lanes.reset(lanes.all)
        assert set(lanes.example_index.tolist()) == {0, 1, 2}
