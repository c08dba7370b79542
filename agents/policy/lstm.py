"""A recurrent language model: an LSTM with the interface of a Transformers causal model.

    policy = Policy.from_config({"model_type": "lstm_lm", "hidden_size": 64}, tokenizer)

Its state has one size, however long the text is, so a step costs the same at the thousandth token as at the first. It
is an ordinary `PreTrainedModel`, saved as safetensors and JSON; in a program that has imported `agents`,
`AutoModelForCausalLM` loads it, without remote code.

Source: Hochreiter & Schmidhuber (1997), Long short-term memory; the language model of Zaremba et al. (2014),
arXiv:1409.2329: dropout between layers, never within the recurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import ModelOutput

from agents.devices import on_device
from agents.policy.decode_graph import Decoding
from agents.policy.trunk import Trunk


class LSTMConfig(PretrainedConfig):
    """Settings of an LSTM language model.

    Args:
        vocab_size: Tokens of its tokenizer.
        hidden_size: Width of the embeddings and of every layer.
        num_hidden_layers: Layers.
        dropout: Probability of dropout on the embeddings and between layers. A policy never applies it.
        initializer_range: Embeddings are drawn from a normal distribution of this standard deviation.
        **kwargs: What every Transformers config takes: ids of special tokens, `tie_word_embeddings` and so on.
    """

    model_type = "lstm_lm"

    def __init__(
        self,
        vocab_size: int = 1024,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        dropout: float = 0.0,
        initializer_range: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


@dataclass
class LSTMOutput(ModelOutput):
    """The output of the trunk.

    Attributes:
        last_hidden_state: `(batch, length, hidden)` of the last layer.
        state: `(hidden, cell)`, each `(layers, batch, hidden)`, behind the last token of each row.
    """

    last_hidden_state: Tensor | None = None
    state: tuple[Tensor, Tensor] | None = None


class LSTMPreTrainedModel(PreTrainedModel):
    """The base of the trunk and the language model: the config, and how weights begin."""

    config_class = LSTMConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            bound = self.config.hidden_size**-0.5
            for name, parameter in module.named_parameters():
                nn.init.uniform_(parameter, -bound, bound)
                if name.startswith("bias_hh"):  # a forget gate that is open at the start (Jozefowicz et al. 2015)
                    parameter[self.config.hidden_size : 2 * self.config.hidden_size] += 1.0
        elif isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)


class LSTMModel(LSTMPreTrainedModel):
    """The trunk: embeddings and layers."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.layers = nn.ModuleList([nn.LSTM(size, size, batch_first=True) for _ in range(config.num_hidden_layers)])
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings."""
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        *,
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        use_cache: bool = True,
        **ignored: Any,
    ) -> LSTMOutput:
        """Reads some tokens.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            state: The state to go on from, `(hidden, cell)`, each `(layers, batch, hidden)`; None: the start of a text.
            lengths: `(batch,)` int64 on the CPU, at least 1: how many tokens of each row count; None: all of them.
            use_cache: If True, the state is returned.
            **ignored: Arguments of other models: masks and positions are in the recurrence already.

        Returns:
            Hidden states and the state. Numbers behind the end of a row have no meaning.
        """
        hidden = self.dropout(self.embed_tokens(input_ids))
        ends_h, ends_c = [], []
        for index, layer in enumerate(self.layers):
            start = None if state is None else (state[0][index : index + 1], state[1][index : index + 1])
            if lengths is None:
                hidden, (end_h, end_c) = layer(hidden, start)
            else:
                packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
                packed, (end_h, end_c) = layer(packed, start)
                hidden, _ = pad_packed_sequence(packed, batch_first=True, total_length=input_ids.shape[1])
            ends_h.append(end_h)
            ends_c.append(end_c)
            if index + 1 < len(self.layers):
                hidden = self.dropout(hidden)
        return LSTMOutput(hidden, (torch.cat(ends_h), torch.cat(ends_c)) if use_cache else None)


class LSTMForCausalLM(LSTMPreTrainedModel):
    """The language model: the trunk and a linear head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - as Transformers has it

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings."""
        embeddings: nn.Module = self.model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        head: nn.Module = self.lm_head
        return head

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **rest: Any) -> CausalLMOutput:
        """Computes the logits of the next token at every position.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            labels: `(batch, length)` int64, usually `input_ids` again; -100 where nothing counts. None: no loss.
            **rest: Other arguments of `LSTMModel.forward`.

        Returns:
            `logits`, `(batch, length, vocab_size)`, and `loss`, the mean negative log-likelihood of the labels in nats.
        """
        logits = self.lm_head(self.model(input_ids, **{**rest, "use_cache": False}).last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


class LSTMTrunk(Trunk):
    """The trunk of an LSTM."""

    def make_context(
        self, num_lanes: int, max_length: int | None = None, decoding: Decoding | None = None
    ) -> RecurrentContext:
        """Returns a context that carries a recurrent state; see `Trunk.make_context`."""
        return RecurrentContext(self, num_lanes)

    def _read_rows(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        states: Tensor = self.module(input_ids=input_ids, use_cache=False).last_hidden_state
        return states


class RecurrentContext:
    """A `Context` that carries each lane's state from step to step.

    Args:
        trunk: The trunk of an LSTM.
        num_lanes: How many texts grow side by side.
    """

    def __init__(self, trunk: LSTMTrunk, num_lanes: int) -> None:
        config = trunk.model.config
        self._module: Any = trunk.module
        self._mode = trunk.mode
        self._device = trunk.device
        shape = (config.num_hidden_layers, num_lanes, config.hidden_size)
        self._state = (torch.zeros(shape, device=self._device), torch.zeros(shape, device=self._device))
        self._hidden = torch.zeros(num_lanes, config.hidden_size, device=self._device)
        self._read = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane that the state has seen

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forgets these lanes."""
        self._read[lanes] = 0
        rows = on_device(lanes, self._device)
        for part in self._state:
            part[:, rows] = 0.0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drops all lanes but these."""
        self._read = self._read[lanes]
        rows = on_device(lanes, self._device)
        self._state = (self._state[0][:, rows], self._state[1][:, rows])
        self._hidden = self._hidden[rows]

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Reads what is new in each lane, and repeats the states of others; see `Context.extend`."""
        new = lengths - self._read
        lanes = np.flatnonzero(new > 0)
        if len(lanes):
            width = int(new.max())
            positions = self._read[lanes, None] + np.arange(width)
            tokens = input_ids[lanes[:, None], np.minimum(positions, input_ids.shape[1] - 1)].astype(np.int64)
            rows = on_device(lanes, self._device)
            ends = torch.from_numpy(new[lanes].astype(np.int64))
            with self._mode():
                output = self._module(
                    on_device(tokens, self._device),
                    state=(self._state[0][:, rows].contiguous(), self._state[1][:, rows].contiguous()),
                    lengths=None if width == 1 else ends,
                )
            for part, end in zip(self._state, output.state, strict=True):
                part[:, rows] = end.to(part.dtype)
            last = ends.to(self._device) - 1
            hidden = output.last_hidden_state[torch.arange(len(lanes), device=self._device), last]
            self._hidden[rows] = hidden.to(self._hidden.dtype)
            self._read = np.maximum(self._read, lengths)
        return self._hidden.clone()

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads some lanes from the start, as nothing can be taken out of a recurrent state; see `Context.states`."""
        tokens = on_device(input_ids[lanes, : int(lengths.max())].astype(np.int64), self._device)
        ends = torch.from_numpy(lengths.astype(np.int64))
        rows = on_device(lanes, self._device)
        with self._mode():
            output = self._module(tokens, lengths=ends)
        for part, end in zip(self._state, output.state, strict=True):
            part[:, rows] = end.to(part.dtype)
        states: Tensor = output.last_hidden_state.to(self._hidden.dtype)
        indices = torch.arange(len(lanes), device=self._device)
        self._hidden[rows] = states[indices, ends.to(self._device) - 1]
        self._read[lanes] = lengths
        positions = starts[:, None] + np.arange(int((lengths - starts).max()))
        in_row = on_device(np.minimum(positions, tokens.shape[1] - 1), self._device)
        return states[indices[:, None], in_row]


AutoConfig.register("lstm_lm", LSTMConfig)
AutoModel.register(LSTMConfig, LSTMModel)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM)
