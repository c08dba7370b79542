"""Scores that need a network. `import agents` registers them with textenvs by name; a name's first use imports torch.

    gym.make("TextGen-v0", reward={"lm": {"model": "gpt2", "reduction": "sum"}})
    gym.make("TextGen-v0", reward={"classifier": {"model": "path/to/toxicity", "label": "toxic", "weight": -1}})
    gym.make("TextGen-v0", reward={"preference": {"model": "runs/reward-model"}})

| name | score | per token | file |
|---|---|---|---|
| `lm` | log-prob of the response under a causal language model | one cached step | language_model.py |
| `preference` | a Bradley-Terry reward model's value above the empty response's | one cached step | preference.py |
| `dpo` | beta times the log-ratio of two language models | one cached step of each | preference.py |
| `classifier` | probability or log-odds of a label | the whole text again | classifier.py |
| `bertscore` | similarity to the references in an encoder's states | the whole response again | bertscore.py |

All of them are a `NetworkReward` (network_reward.py). Those that take one step of a model per token read with
text_reader.py, the others with text_encoder.py. All lanes that move in a step are read in one batch.

"One cached step" costs as much as a step of the policy, plus the tokens of the unfinished last word wherever one more
letter changes how it is spelled (see text_reader.py).

A reward holds names and numbers alone, so it can be pickled and written to JSON. Its model is loaded when a scorer or a
score is first asked for, once in a process. Models are never trained here: a score is a frozen function of the text.

Numbers are in float64 on a CPU. A push then equals the score of the whole text to 1e-9, or to 1e-6 for a model that
computes its attention in float32 whatever it is given (Gemma 2). In float32, which is the default on an accelerator and
can be asked for with `dtype`, a batch of another shape rounds differently: `check_reward(..., tolerance=1e-3)`. The
payments still add up to the score to 1e-9.
"""
