"""Chat templates, against what Transformers makes of them."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from textenvs import Example, TextGenEnv, make_tokenizer
from textenvs.chat_template import as_template, find_chat_template
from textenvs.pool import PromptEncoder
from textenvs.tasks.dialogue import Dialogue
from textenvs.tokenizer import BUNDLED

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{%- for message in messages -%}\n  {%- if message.role == 'assistant' %}\n    {% generation %}"
    "{{ message.content | tojson }}{{ eos_token }}{% endgeneration %}\n  {%- else %}\n[{{ message.content }}]\n"
    "  {%- endif %}\n{%- if loop.last %}{% break %}{% endif %}{% endfor %}"
)
TALK = [
    {"role": "user", "content": " Tell me a story. "},
    {"role": "assistant", "content": "Once upon a time <there> was é."},
    {"role": "user", "content": "Go on."},
]


def folder_with(folder: Path, template: str | None) -> Path:
    (folder / "tokenizer.json").write_bytes(BUNDLED["stories"].read_bytes())
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def fast(template: str) -> Any:
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer.from_file(str(BUNDLED["stories"]))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("prompt", [True, False])
def test_as_transformers_does(template: str, prompt: bool, tmp_path: Path) -> None:
    theirs = fast(template)
    expected = theirs.apply_chat_template(TALK, add_generation_prompt=prompt, tokenize=True, return_dict=False)
    assert len(expected) > 20
    for source in (theirs, folder_with(tmp_path, template)):
        assert make_tokenizer(source).encode_chat(TALK, add_generation_prompt=prompt) == expected


def test_a_prompt_is_what_the_user_says(tmp_path: Path) -> None:
    folder = str(folder_with(tmp_path, CHATML))
    env = TextGenEnv(tokenizer=folder, chat_template=True)
    observation, _ = env.reset(seed=0)
    tokenizer: Any = env.tokenizer
    message = {"role": "user", "content": env.example.prompt}
    expected = tokenizer.encode_chat([message])
    assert observation["input_ids"][: len(expected)].tolist() == expected
    assert observation["attention_mask"].sum() == len(expected)
    plain = TextGenEnv(tokenizer=folder)
    assert plain.reset(seed=0)[0]["attention_mask"].sum() < len(expected)


def test_a_reply_stands_between_the_end_of_a_turn_and_the_next(tmp_path: Path) -> None:
    tokenizer: Any = make_tokenizer(folder_with(tmp_path, CHATML))
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "One day"}]
    whole = tokenizer.encode_chat([*before, {"role": "user", "content": "and then?"}])
    reply = PromptEncoder(tokenizer, chat_template=True).encode_reply("and then?")
    start = PromptEncoder(tokenizer, chat_template=True).encode(["Hello"])[0]
    turn = [*tokenizer.encode_response("One day"), tokenizer.eos_token_id]
    assert start + turn + reply == whole


def test_there_is_room_for_replies_in_the_template(tmp_path: Path) -> None:
    task = Dialogue(train=4, validation=1, test=1, shifted=1)
    env = TextGenEnv(task, tokenizer=folder_with(tmp_path, CHATML), chat_template=True)
    encoder, given = PromptEncoder(env.tokenizer, chat_template=True), env.setting.pool.examples
    longest = max(len(encoder.encode_reply(reply)) for example in given for reply in task.replies(example))
    assert longest > task.max_reply_tokens
    assert env.setting.pool.reply_tokens >= longest
    env.reset(options={"example": 0})
    assert not env.step(env.tokenizer.eos_token_id)[2]


def test_replies_need_a_template_that_ends_turns(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(folder_with(tmp_path, "{% for message in messages %}{{ message.content }}{% endfor %}"))
    with pytest.raises(ValueError, match="ends what the assistant says with EOS"):
        PromptEncoder(tokenizer, chat_template=True).encode_reply("and then?")


def test_without_a_template() -> None:
    with pytest.raises(ValueError, match="Expected a tokenizer with a chat template, got SubwordTokenizer"):
        TextGenEnv(chat_template=True)
    with pytest.raises(ValueError, match="which has none"):
        make_tokenizer("stories").encode_chat(TALK)  # type: ignore[attr-defined]


def test_a_template_that_refuses(tmp_path: Path) -> None:
    tokenizer: Any = make_tokenizer(folder_with(tmp_path, "{{ raise_exception('no talking') }}"))
    with pytest.raises(ValueError, match="refuses the conversation: no talking"):
        tokenizer.encode_chat(TALK)


def test_no_prompt_depends_on_the_day(tmp_path: Path) -> None:
    tokenizer: Any = make_tokenizer(folder_with(tmp_path, "{{ 'today' if strftime_now is defined else 'once' }}"))
    assert tokenizer.encode_chat(TALK) == tokenizer.encode_response("once")


def test_templates_are_found(tmp_path: Path) -> None:
    assert find_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "old"}]}')
    assert find_chat_template(tmp_path) == "old"
    folder_with(tmp_path, "new")
    assert find_chat_template(tmp_path) == "new"
    assert as_template({"default": "a", "tool_use": "b"}) == "a"
    assert as_template({"tool_use": "b"}) is as_template(None) is None


def test_a_given_example_goes_through_it_too(tmp_path: Path) -> None:
    env = TextGenEnv(tokenizer=str(folder_with(tmp_path, CHATML)), chat_template=True)
    observation, info = env.reset(options={"example": Example("Hello")})
    tokenizer: Any = env.tokenizer
    expected = tokenizer.encode_chat([{"role": "user", "content": "Hello"}])
    assert observation["input_ids"][: len(expected)].tolist() == expected
    assert info["example"] == -1
