"""A causal language model as a reader of text, for the scores of language_model.py and preference.py.

`TextModel` reads whole texts, the definition; `TextReader` and `LogProbReader` read the growing texts of N lanes, with
a cache. A score is a function of text, and the policy's tokens are not the reader's. So a response is spelled in the
reader's own tokens, and spelled again whenever a token of the policy has changed its last word:

    the policy's tokens -> text -> stretches -> the reader's tokens -> states of its trunk, over the lane cache

A *stretch* begins at a space that follows something other than white space: " once", " upon", " a". Each is spelled by
itself, and only the last can still change. Tokenizers that cut a text into words read it so anyway; for one that does
not (SentencePiece without a pre-tokenizer), it is part of the definition of the score. At each push, the model computes
from the first token on that differs from the last push.
"""

from __future__ import annotations

import codecs
import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.devices import choose_device, on_device
from agents.policy import gguf
from agents.policy.context import Context
from agents.policy.generation_config import UNFOLLOWED
from agents.policy.policy import Policy
from agents.policy.pretrained import ADAPTERS_FOLDER, BUNDLED_MODELS, NAMED_MODELS
from textenvs import Example, RewardError, Tokenizer
from textenvs.arguments import check_choice
from textenvs.tokenizer import SubwordTokenizer

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""Name to type, of what a reader may compute in."""

_STRETCH_BEGIN = re.compile(r"(?<=\S)(?= )")
_MOST_SPELLINGS = 1 << 17  # stretches remembered, some 30 MB
_TOKENS_PER_PASS = 1 << 13  # in a forward pass that reads whole texts; bounds its memory
_BLOCK = 64  # tokens by which a lane's row grows


class TextModel:
    """A causal language model that reads prompts and responses as text.

    Args:
        policy: The model, its tokenizer and its head. The tokenizer is copied: to a reader, the text of a special
            token in a prompt or response is text like any other.
        chat_template: If True, a prompt is read as a user's message, in the chat template of the model's tokenizer,
            and the response as the assistant's answer.

    Raises:
        ValueError: If the tokenizer is not one of the tokenizers library or lacks the template, or the model is no
            causal one.

    Attributes:
        policy: The policy.
        limit: The largest number of tokens that it can read.
    """

    def __init__(self, policy: Policy, chat_template: bool = False) -> None:
        if not isinstance(policy.tokenizer, SubwordTokenizer):
            raise ValueError(
                "Expected a model with a tokenizer of the tokenizers library, which can spell any text, got "
                f"{type(policy.tokenizer).__name__}"
            )
        if policy.model.config.is_encoder_decoder:
            raise ValueError(
                "Expected a causal language model, whose states at the prompt are the same whatever comes behind it, "
                f"got {type(policy.model).__name__}"
            )
        if chat_template and policy.tokenizer.chat_template is None:
            raise ValueError(
                f"Expected a model whose tokenizer has a chat template, got {policy.tokenizer!r}, which has none"
            )
        self.policy = policy
        self._chat = policy.tokenizer if chat_template else None
        self._tokenizer = copy.deepcopy(policy.tokenizer)
        self._tokenizer.backend.encode_special_tokens = True
        positions = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None) or 2**31 - 1
        self.limit = int(min(positions, policy.longest_text))
        self._spellings: dict[str, tuple[int, ...]] = {}

    def prompt_ids(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt, with the special tokens that the model expects around it; at least one."""
        if self._chat is not None:
            return list(self._chat.encode_chat([{"role": "user", "content": prompt}]))
        return self._tokenizer.encode_batch([prompt])[0] or [self._tokenizer.bos_token_id]

    def stretch_ids(self, stretch: str) -> tuple[int, ...]:
        """Returns the tokens of one stretch of a response."""
        spelling = self._spellings.get(stretch)
        if spelling is None:
            if len(self._spellings) >= _MOST_SPELLINGS:
                self._spellings.clear()
            spelling = tuple(self._tokenizer.encode_response(stretch)) if stretch else ()
            self._spellings[stretch] = spelling
        return spelling

    def response_ids(self, response: str) -> list[int]:
        """Returns the tokens of a whole response, stretch by stretch."""
        return [token for stretch in stretches(response) for token in self.stretch_ids(stretch)]

    def rows(self, examples: Sequence[Example], responses: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Spells whole texts.

        Args:
            examples: The example that each response answers.
            responses: The texts.

        Returns:
            The tokens of each prompt with its response, and the number of them that are the prompt's.

        Raises:
            ValueError: If a text is longer than the model can read.
        """
        prompts = [self.prompt_ids(example.prompt) for example in examples]
        rows = [prompt + self.response_ids(text) for prompt, text in zip(prompts, responses, strict=True)]
        for row in rows:
            self.check_length(len(row))
        return rows, [len(prompt) for prompt in prompts]

    def check_length(self, length: int) -> None:
        """Raises a ValueError if a text has more tokens than the model can read."""
        if length > self.limit:
            raise ValueError(
                f"Expected prompt and response to fit into the model's context of {self.limit} tokens, got {length}: "
                "lower max_new_tokens, or shorten the prompts"
            )

    @torch.no_grad()
    def log_probs(self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> list[NDArray[np.float64]]:
        """Computes log-probs of the tokens behind each prompt, in whole forward passes without a cache.

        Args:
            rows: Tokens of each prompt and response.
            prompt_lengths: The number of each row's tokens that are the prompt's, at least 1.

        Returns:
            `(response tokens,)` nats, for each row.
        """
        log_probs = []
        for states, indices in self._passes(rows):
            for row_states, row in zip(states, indices, strict=True):
                begin = prompt_lengths[row]
                before = row_states[begin - 1 : len(rows[row]) - 1]  # a token is predicted by the state before it
                log_probs.append(self.token_log_probs(before, rows[row][begin:]))
        return log_probs

    @torch.no_grad()
    def values(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Computes the value head's numbers at two tokens of each row, in whole forward passes without a cache.

        Args:
            rows: Tokens of each prompt and response.
            prompt_lengths: The number of each row's tokens that are the prompt's, at least 1.

        Returns:
            `(rows,)` each: at the last token, and at the last token of the prompt.
        """
        last, of_prompt = [], []
        for states, indices in self._passes(rows):
            for row_states, row in zip(states, indices, strict=True):
                last.append(row_states[len(rows[row]) - 1])
                of_prompt.append(row_states[prompt_lengths[row] - 1])
        return self.head_values(torch.stack(last)), self.head_values(torch.stack(of_prompt))

    def _passes(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, range]]:
        """The trunk's states of whole rows, right-padded, and the rows' indices: a few rows at a time, in order."""
        begin, device = 0, self.policy.device
        while begin < len(rows):
            end, width = begin, 0
            while end < len(rows) and max(width, len(rows[end])) * (end + 1 - begin) <= _TOKENS_PER_PASS:
                width, end = max(width, len(rows[end])), end + 1
            indices = range(begin, max(end, begin + 1))
            begin = indices.stop
            tokens = [torch.tensor(rows[row]) for row in indices]
            table = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
            ends = torch.tensor([len(row) for row in tokens], device=device)
            yield self.policy.row_states(table.to(device), ends, ends), indices

    @torch.no_grad()
    def token_log_probs(self, states: Tensor, tokens: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Computes log-probs of tokens.

        Args:
            states: `(n, hidden)`, the trunk's state before each token.
            tokens: `(n,)`, the tokens.

        Returns:
            `(n,)` nats, under the model's whole vocabulary.
        """
        if not len(tokens):
            return np.zeros(0)
        taken = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=states.device)
        return _numpy(self.policy.head.token_log_probs(states, taken))

    @torch.no_grad()
    def head_values(self, states: Tensor) -> NDArray[np.float64]:
        """Computes the value head's number at each state `(n, hidden)`: `(n,)`."""
        head = self.policy.value_head
        return _numpy(head(states.to(head.weight.dtype))[:, 0])


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.double().cpu().numpy()
    return array


def stretches(text: str) -> list[str]:
    """Cuts a text into its stretches, which joined give it back; an empty text has none."""
    return _STRETCH_BEGIN.split(text) if text else []


def load_text_model(
    source: str | Path, *, dtype: str | None = None, device: str | None = None, chat_template: bool = False
) -> TextModel:
    """Loads a reader by name: the same one for the same name, as long as its files do not change.

    Args:
        source: A name, folder or hub id that `Policy.from_pretrained` takes.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device to put it on; None takes CUDA, then MPS, then the CPU.
        chat_template: If True, prompts are read in the chat template of its tokenizer.

    Returns:
        The reader.

    Raises:
        ValueError: If there is no such model, dtype or device, or no chat template.
    """
    chosen = choose_device(device)
    return _load(str(source), reading_dtype(dtype, chosen), str(chosen), chat_template, files_stamp(source))


@lru_cache(maxsize=8)
def _load(source: str, dtype: str, device: str, chat_template: bool, stamp: tuple[int, ...]) -> TextModel:
    with warnings.catch_warnings():  # a model that only reads has no use for what its config asks of `generate`
        warnings.filterwarnings("ignore", message=UNFOLLOWED)
        policy = Policy.from_pretrained(source, device=device).to(DTYPES[dtype])
    if dtype == "bfloat16":
        policy.value_head.float()  # differences of one number a text would drown in its rounding
    policy.precision = "float32"  # no autocast: `dtype` alone says what is computed in
    policy.requires_grad_(False)
    return TextModel(policy, chat_template)


def check_dtype(dtype: str | None) -> str | None:
    """Checks the name of a dtype, and returns it; None is allowed."""
    name: str | None = check_choice("dtype", dtype, DTYPES, optional=True)
    return name


def reading_dtype(dtype: str | None, device: torch.device) -> str:
    """Returns the name of the dtype to compute in: the one asked for, else float64 on a CPU and float32 elsewhere."""
    return check_dtype(dtype) or ("float64" if device.type == "cpu" else "float32")


def check_source(source: str | Path) -> str:
    """Checks a model's name, as far as that is possible without loading it.

    Args:
        source: A bundled name, a folder or a hub id.

    Returns:
        The name as a string, so that it can be written to JSON.

    Raises:
        ValueError: If it is a folder without a model, or neither a folder nor a hub id.
        TypeError: If it is neither a string nor a path.
    """
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"Expected a model as a bundled name, a folder or a hub id, got {source!r} of type {type(source).__name__}"
        )
    name = str(source)
    folder = Path(name).expanduser()
    if name in NAMED_MODELS:
        return name
    if gguf.is_gguf(name) and folder.is_file():
        return str(folder)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / ADAPTERS_FOLDER).is_dir():
            raise ValueError(f"Expected a model folder with a config.json, got {name!r}, which has none")
        return str(folder)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(
            f"Expected a bundled model {list(NAMED_MODELS)}, a folder, a .gguf file or a hub id, got {name!r}: no such "
            "folder"
        )
    return name


def files_stamp(source: str | Path) -> tuple[int, ...]:
    """Returns the times at which a local model's files were written, so that a changed model is loaded again."""
    folder = Path(BUNDLED_MODELS.get(str(source), source))
    if folder.is_file():
        return (folder.stat().st_mtime_ns,)
    if not folder.is_dir():
        return ()
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.iterdir()) if file.is_file())


class TextReader:
    """The texts of N lanes, as a model reads them: pushed in a policy's tokens, kept in the model's own.

    Args:
        model: The model that reads.
        num_lanes: The number of texts that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
        reward: The name of the reward that it reads for, for errors.

    Attributes:
        model: The model.
        examples: The example that each lane answers; None before its first reset.
        prompt_length: `(num_lanes,)` int64, tokens of each prompt.
        length: `(num_lanes,)` int64, tokens of each prompt and response.
    """

    def __init__(self, model: TextModel, num_lanes: int, tokenizer: Tokenizer, reward: str) -> None:
        self.model = model
        self._reward = reward
        self.examples: list[Example | None] = [None] * num_lanes
        self.prompt_length = np.zeros(num_lanes, dtype=np.int64)
        self.length = np.zeros(num_lanes, dtype=np.int64)
        self._pieces = tokenizer.pieces
        self._written: list[list[str]] = [[] for _ in range(num_lanes)]
        self._incomplete = [b""] * num_lanes
        self._last_stretch = [""] * num_lanes  # which may still change
        self._settled = np.zeros(num_lanes, dtype=np.int64)  # number of tokens before it
        self._read = np.zeros(num_lanes, dtype=np.int64)  # number of tokens whose states are known
        self._ids = np.zeros((num_lanes, _BLOCK), dtype=np.int64)
        self._context: Context = model.policy.context(num_lanes, model.limit)
        self._states: Tensor | None = None  # (num_lanes, capacity, hidden)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses in some lanes `(k,)` to these examples. Nothing is computed yet."""
        self._context.reset(lanes)
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            ids = self.model.prompt_ids(example.prompt)
            self.model.check_length(len(ids))
            self.examples[lane] = example
            self._written[lane], self._incomplete[lane], self._last_stretch[lane] = [], b"", ""
            self.prompt_length[lane] = self.length[lane] = self._settled[lane] = len(ids)
            self._read[lane] = 0
            self._write(lane, 0, ids)

    def text(self, lane: int) -> str:
        """Returns the response in one lane so far."""
        return "".join(self._written[lane])

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Appends one token to each of some lanes, and reads what that changes.

        Args:
            lanes: `(k,)`, distinct lanes.
            tokens: `(k,)`, the token that each writes.

        Returns:
            `(changed,)`, the lanes in which the model's tokens changed, rising, and for each the position of the first
            token that did.

        Raises:
            RewardError: If a text has become longer than the model can read.
            RuntimeError: If a lane was never reset.
        """
        first_new: dict[int, int] = {}
        for lane, token in zip(lanes.tolist(), tokens.tolist(), strict=True):
            if self.examples[lane] is None:
                raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
            data = self._incomplete[lane] + self._pieces[token]
            text, used = codecs.utf_8_decode(data, "replace", False)
            self._incomplete[lane] = data[used:]
            if text:
                self._written[lane].append(text)
                position = self._respell(lane, text)
                if position is not None:
                    first_new[lane] = position
        changed = np.array(sorted(first_new), dtype=np.intp)
        starts = np.array([first_new[lane] for lane in changed.tolist()], dtype=np.int64)
        fresh = changed[self._read[changed] == 0]
        if len(fresh):  # a prompt is read at its lane's first push
            self._run(fresh, np.zeros_like(self.length[fresh]), self.prompt_length[fresh])
        longer = starts < self.length[changed]  # the others only became shorter
        if longer.any():
            self._run(changed[longer], starts[longer], self.length[changed[longer]])
        self._read[changed] = self.length[changed]
        return changed, starts

    def _respell(self, lane: int, text: str) -> int | None:
        """Spells the end of a lane's text again; the position of the first token that differs, None where none does."""
        *finished, last = stretches(self._last_stretch[lane] + text)
        begin = int(self._settled[lane])
        new: list[int] = []
        for stretch in finished:
            new.extend(self.model.stretch_ids(stretch))
        self._settled[lane] = begin + len(new)
        self._last_stretch[lane] = last
        new.extend(self.model.stretch_ids(last))
        old_end, new_end = int(self.length[lane]), begin + len(new)
        old = self._ids[lane, begin:old_end].tolist()
        same = 0  # tokens in front that stay
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        if same == len(old) == len(new):
            return None
        try:
            self.model.check_length(new_end)
        except ValueError as error:
            problem = f"raised ValueError: {error}"
            raise RewardError(self._reward, problem, self.examples[lane], self.text(lane)) from error
        self._write(lane, begin, new)
        self.length[lane] = new_end
        return begin + same

    def _write(self, lane: int, begin: int, ids: Sequence[int]) -> None:
        """Puts tokens into a lane's row, and widens all rows where they do not fit."""
        end = begin + len(ids)
        if end > self._ids.shape[1]:
            wider = np.zeros((len(self._ids), -(-end // _BLOCK) * _BLOCK), dtype=np.int64)
            wider[:, : self._ids.shape[1]] = self._ids
            self._ids = wider
        self._ids[lane, begin:end] = ids

    def _run(self, lanes: NDArray[np.intp], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Reads these lanes' tokens from `starts` on, a bounded number of them at a time."""
        size = max(1, _TOKENS_PER_PASS // int((lengths - starts).max()))
        for begin in range(0, len(lanes), size):
            part = slice(begin, begin + size)
            states = self._context.states(self._ids, lanes[part], starts[part], lengths[part])
            if self._states is None or self._states.shape[1] < self._ids.shape[1]:
                grown = states.new_zeros(len(self._ids), self._ids.shape[1], states.shape[2])
                if self._states is not None:
                    grown[:, : self._states.shape[1]] = self._states
                self._states = grown
            rows, steps = np.nonzero(np.arange(states.shape[1]) < (lengths[part] - starts[part])[:, None])
            into = self._index(lanes[part][rows]), self._index(starts[part][rows] + steps)
            self._states[into] = states[self._index(rows), self._index(steps)]

    def states(self, lanes: NDArray[np.intp], positions: NDArray[np.int64]) -> Tensor:
        """Returns the trunk's states at some tokens that have been read.

        Args:
            lanes: `(n,)`, the tokens' lanes.
            positions: `(n,)`, their positions in the lanes' rows.

        Returns:
            `(n, hidden)`.
        """
        assert self._states is not None
        return self._states[self._index(lanes), self._index(positions)]

    def ids(self, lanes: NDArray[np.intp], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the model's tokens at some positions of some lanes: `(n,)`."""
        return self._ids[lanes, positions]

    def _index(self, array: NDArray[np.intp] | NDArray[np.int64]) -> Tensor:
        return on_device(np.ascontiguousarray(array), self.model.policy.device)


class LogProbReader:
    """The log-probs of N growing responses under a model.

    Args:
        model: The language model.
        num_lanes: The number of texts that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
        reward: The name of the reward that it reads for, for errors.

    Attributes:
        reader: The reader of the texts.
    """

    def __init__(self, model: TextModel, num_lanes: int, tokenizer: Tokenizer, reward: str) -> None:
        self.reader = TextReader(model, num_lanes, tokenizer, reward)
        # sums[lane, position]: log-prob of the response's tokens before that position of the row
        self._sums = np.zeros((num_lanes, _BLOCK))

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses in some lanes `(k,)` to these examples. Nothing is computed yet."""
        self.reader.reset(lanes, examples)
        self._grow()
        self._sums[lanes, self.reader.prompt_length[lanes]] = 0.0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Appends one token to each of some lanes.

        Args:
            lanes: `(k,)`, distinct lanes.
            tokens: `(k,)`, the token that each writes.

        Returns:
            `(k,)` nats, the log-prob of each response so far, and `(k,)`, the number of the model's tokens in it.
        """
        reader = self.reader
        changed, starts = reader.push(lanes, tokens)
        self._grow()
        new = reader.length[changed] - starts
        rows, steps = np.nonzero(np.arange(new.max(initial=0)) < new[:, None])
        if len(rows):
            of_lane, positions = changed[rows], starts[rows] + steps
            log_probs = np.zeros((len(changed), int(new.max())))
            log_probs[rows, steps] = reader.model.token_log_probs(
                reader.states(of_lane, positions - 1), reader.ids(of_lane, positions)
            )
            sums = self._sums[changed, starts]
            for step in range(log_probs.shape[1]):  # from the left: the same sum however the response was pushed
                sums = sums + log_probs[:, step]
                written = step < new
                self._sums[changed[written], (starts + step + 1)[written]] = sums[written]
        return self._sums[lanes, reader.length[lanes]], reader.length[lanes] - reader.prompt_length[lanes]

    def _grow(self) -> None:
        """Widens the table of sums to the reader's longest row."""
        width = int(self.reader.length.max()) + 1
        if width > self._sums.shape[1]:
            wider = np.zeros((len(self._sums), -(-width // _BLOCK) * _BLOCK))
            wider[:, : self._sums.shape[1]] = self._sums
            self._sums = wider
