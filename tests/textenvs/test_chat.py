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
    with pytest.raises(ValueError, match="ends what the assistant says with a special token"):
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
    tokenizer: Any = make_tokenizer(folder_with(tmp_path, "{{ strftime_now('%d %B %Y %H:%M') }}"))
    assert tokenizer.write_chat(TALK) == "01 January 2026 00:00"
    assert tokenizer.write_chat(TALK, variables={"date": "2024-07-26"}) == "26 July 2024 00:00"


ASKING = (
    "{% if tools is not none %}TOOLS {{ tools | tojson }}{% endif %}{{ messages[0].content }}",
    "{% if documents is not none %}DOCUMENTS {% endif %}{{ messages[0].content }}",
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ 'no' if bos_token is not defined }}{{ messages[0].content }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% generation %}{% set x = m.content %}{{ x }}{% endgeneration %}{{ x }}{% endfor %}",
    "{{ dict(a=1) | tojson(indent=2) }}{{ messages[0]['nothing'] }}{{ nothing }}",
)


@pytest.mark.parametrize("template", ASKING)
@pytest.mark.parametrize("names", [{"eos_token": "<eos>"}, {"bos_token": "<bos>", "eos_token": "<eos>"}], ids=str)
def test_templates_get_what_transformers_gives_them(template: str, names: dict[str, str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer.from_file(str(BUNDLED["stories"]))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    theirs.chat_template = template
    expected = theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    theirs.save_pretrained(tmp_path)
    for source in (theirs, tmp_path):
        tokenizer: Any = make_tokenizer(source)
        assert tokenizer.write_chat(TALK) == expected


THINKING = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and enable_thinking is false %}"
    "(no thoughts){% endif %}{% endif %}{{ strftime_now('%Y') }}"
)


def test_settings_of_a_template(tmp_path: Path) -> None:
    theirs = fast(THINKING)
    settings = {"system": "Be brief.", "enable_thinking": False, "date": "1999-12-31"}
    env = TextGenEnv(tokenizer=theirs, chat_template=settings)
    env.reset(options={"example": Example("Hello")})
    tokenizer: Any = env.tokenizer
    written = "[system]Be brief.<eos>[user]Hello<eos>[assistant](no thoughts)1999"
    expected = tokenizer.backend.encode(written, add_special_tokens=False).ids
    assert env.lanes.input_ids[0, : len(expected)].tolist() == expected
    plain = TextGenEnv(tokenizer=env.tokenizer, chat_template={})  # shares no pool with the one above
    plain.reset(options={"example": Example("Hello")})
    start = tokenizer.encode_chat([{"role": "user", "content": "Hello"}])
    assert plain.lanes.input_ids[0, : len(start)].tolist() == start
    encoder = PromptEncoder(tokenizer, chat_template=settings)
    whole = encoder._encode_chat(
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "and then?"},
        ]
    )
    reply = encoder.encode_reply("and then?")
    assert whole[-len(reply) :] == reply
    assert whole[-len(reply) - 1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"enable_thinkin": False}, ValueError, "Did you mean 'enable_thinking'"),
        ({"messages": []}, ValueError, "got 'messages'"),
        ({"add_generation_prompt": False}, ValueError, "got 'add_generation_prompt'"),
        ({"system": 1}, TypeError, "'system' of chat_template to be a text, got 1"),
        ({"date": "yesterday"}, ValueError, "'date' of chat_template like '2026-01-01', got 'yesterday'"),
        ("yes", TypeError, "chat_template to be True, False or settings, got 'yes'"),
    ],
)
def test_settings_that_a_template_does_not_have(settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextGenEnv(tokenizer=fast(THINKING), chat_template=settings)


@pytest.mark.parametrize(
    ("template", "message"),
    [("{{ messages[0].content + 1 }}", "writes the conversation"), ("{% if %}", "cannot be read"),
     ("{{ messages.what.ever }}", "writes the conversation")],
)  # fmt: skip
def test_a_template_that_fails(template: str, message: str) -> None:
    tokenizer: Any = make_tokenizer(fast(template))
    with pytest.raises(ValueError, match=message):
        tokenizer.encode_chat(TALK)


def chat_tokenizer(template: str, *tokens: str) -> Any:
    """A tokenizer with further special tokens, as chat models have them."""
    made = fast(template)
    made.add_special_tokens({"additional_special_tokens": list(tokens)})
    return made


TURN = "<|end|>"
GEMMA = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PHI = GEMMA + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
BETWEEN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)


@pytest.mark.parametrize("template", [GEMMA, PHI])
def test_the_end_of_a_turn_in_the_template_ends_an_episode(template: str) -> None:
    theirs = chat_tokenizer(template, "<|start|>", TURN)
    env = TextGenEnv(tokenizer=theirs, chat_template=True, reward="length", max_new_tokens=8)
    end = env.tokenizer.special_token_id(TURN)  # type: ignore[attr-defined]
    for token in (end, env.tokenizer.eos_token_id):
        env.reset(seed=0)
        assert not env.step(40)[2]
        assert env.step(token)[2]
    assert env.setting.turn_end_id == end
    plain = TextGenEnv(tokenizer=theirs, reward="length", max_new_tokens=8)
    plain.reset(seed=0)
    assert not plain.step(end)[2]
    assert plain.setting.turn_end_id == env.tokenizer.eos_token_id


def test_a_turn_that_ends_where_the_next_one_begins() -> None:
    theirs = chat_tokenizer(BETWEEN, "<|user|>", "<|assistant|>", "<|a|>")
    env = TextGenEnv(tokenizer=theirs, chat_template=True)
    assert env.setting.turn_end_id == theirs.convert_tokens_to_ids("<|user|>")


@pytest.mark.parametrize("template", [GEMMA, PHI])
def test_replies_follow_the_end_of_a_turn(template: str) -> None:
    task = Dialogue(train=4, validation=1, test=1, shifted=1)
    env = TextGenEnv(task, tokenizer=chat_tokenizer(template, "<|start|>", TURN), chat_template=True)
    tokenizer: Any = env.tokenizer
    env.reset(options={"example": 0})
    prompt, said = env.example.prompt, tokenizer.encode_response("Hello.")
    for token in [*said, tokenizer.special_token_id(TURN)]:
        assert not env.step(token)[2]
    reply = task.reply(env.example, ("Hello.",))
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "Hello."}]
    expected = tokenizer.encode_chat([*messages, {"role": "user", "content": reply}])
    assert env.lanes.input_ids[0, : env.lanes.length[0]].tolist() == expected
    assert env.lanes.response(0) == "Hello.\n"


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
