"""The views of an episode: what they show, what they refuse to obey, and that they keep their size."""

import io
import re
import sys
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.render import Segment, ansi, html, legend, rgb_array, show, visible

STYLE = re.compile(r"\x1b\[[0-9;]*m")
EPISODE = [
    Segment("Once upon", "prompt"),
    Segment(" a bad", "response", -0.5),
    Segment(" day", "response", 0.0),
    Segment(" ended", "response", 0.25),
    Segment(" well.", "response", 1.0),
    Segment("</s>", "response", 2.0, special=True),
    Segment("\nGo on.\n", "environment"),
]

texts = st.text(
    st.characters() | st.sampled_from("\x1b\x07\x9b\r\b\u202e\u2066\u2028\ud800\u0301\u200d\U000e0041\n <&")
)
segments = st.builds(
    Segment,
    texts,
    st.sampled_from(["prompt", "response", "environment"]),
    st.none() | st.floats(-1e6, 1e6),
    st.booleans(),
)
episodes = st.lists(segments, max_size=8)


def backgrounds(text: str) -> list[tuple[int, ...]]:
    """The background colours in a string for a terminal, in order, each an (r, g, b)."""
    return [tuple(map(int, match)) for match in re.findall(r"48;2;(\d+);(\d+);(\d+)m", text)]


def text_of(fragment: str) -> str:
    """What a browser would show of a piece of HTML."""
    parts: list[str] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(fragment)
    parser.close()
    return "".join(parts)


class TestSegment:
    def test_unknown_kind(self):
        with pytest.raises(ValueError, match=r"Expected kind to be 'prompt', 'response' or 'environment', got 'user'"):
            Segment("a", "user", None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
    def test_reward_must_be_finite(self, reward):
        with pytest.raises(ValueError, match="finite reward"):
            Segment("a", "response", reward)


class TestVisible:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain\ntext", "plain\ntext"),
            ("\x1b[2J", r"\x1b[2J"),
            ("a\rb\bc\td", r"a\rb\x08c\td"),
            ("\u202eevil\u2066", r"\u202eevil\u2066"),
            ("\x9b31m\x00", r"\x9b31m\x00"),
            ("\ud800", r"\ud800"),
            ("\u2028\u2029\u200b\ufeff", r"\u2028\u2029\u200b\ufeff"),
            ("\U000e0041", r"\U000e0041"),
            ("日本語 привет é\u0301", "日本語 привет é\u0301"),
            ("👩\u200d👧 می\u200cروم", "👩\u200d👧 می\u200cروم"),
            ("", ""),
        ],
    )
    def test_examples(self, text, shown):
        assert visible(text) == shown

    @given(texts)
    def test_is_harmless_and_stable(self, text):
        shown = visible(text)
        assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c != "\n"]
        assert not set(shown) & set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
        assert shown.count("\n") == text.count("\n")
        assert visible(shown) == shown
        shown.encode()


class TestAnsi:
    def test_without_color_it_is_the_text(self):
        assert ansi(EPISODE, color=False) == "Once upon a bad day ended well.\nGo on.\n"

    def test_exact(self):
        """By hand, with the largest |reward| of the episode, the EOS's 2.0, as the full colour."""
        assert ansi([Segment("p", "prompt"), Segment("n", "response"), Segment("e", "environment")]) == (
            "\x1b[2mp\x1b[0mn\x1b[34me\x1b[0m"
        )
        assert ansi([Segment("up", "response", 2.0), Segment("down", "response", -2.0)]) == (
            "\x1b[38;2;255;255;255;48;2;0;132;92mup\x1b[0m\x1b[38;2;255;255;255;48;2;190;24;44mdown\x1b[0m"
        )

    def test_color_follows_the_sign_and_the_size(self):
        rewards = [-1.0, -0.5, -0.1, 0.1, 0.5, 1.0]
        colors = backgrounds(ansi([Segment("x", "response", r) for r in rewards]))
        greenness = [g - r for r, g, _ in colors]
        assert greenness == sorted(set(greenness))
        assert greenness[2] < 0 < greenness[3]

    def test_zero_and_none_have_no_background(self):
        assert backgrounds(ansi([Segment("a", "response", 0.0), Segment("b", "response", None)])) == []

    def test_scale(self):
        half = [Segment("a", "response", 0.5)]
        assert backgrounds(ansi(half)) == backgrounds(ansi(half, scale=0.5)) == backgrounds(ansi(half, scale=0.1))
        assert backgrounds(ansi(half, scale=1.0)) != backgrounds(ansi(half))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    @pytest.mark.parametrize("view", [ansi, html, rgb_array])
    def test_bad_scale(self, view, scale):
        with pytest.raises(ValueError, match=r"Expected scale in \(0, inf\)"):
            view(EPISODE, scale=scale)

    def test_special_tokens_count_but_do_not_print(self):
        assert "</s>" not in ansi(EPISODE)
        assert backgrounds(ansi(EPISODE)) == backgrounds(ansi(EPISODE, scale=2.0))

    @given(episodes)
    def test_styles_only_decorate(self, episode):
        colored = ansi(episode)
        assert STYLE.sub("", colored) == ansi(episode, color=False)
        assert "\x1b" not in STYLE.sub("", colored)
        # A colour that is still on at a line's end would fill the rest of the line.
        for line in colored.split("\n"):
            codes = STYLE.findall(line)
            assert codes[1::2] == ["\x1b[0m"] * (len(codes) // 2)
            assert len(codes) % 2 == 0

    def test_empty(self):
        assert ansi([]) == ""


class TestLegend:
    def test_words(self):
        assert legend(color=False) == "reward of a token: red -, grey near 0, green +"
        assert legend(0.25, color=False) == "reward of a token: red -0.25, grey near 0, green +0.25"

    def test_colors_are_those_of_ansi(self):
        colors = backgrounds(legend(2.0))
        assert [colors[0], colors[-1]] == backgrounds(
            ansi([Segment("a", "response", -2.0), Segment("b", "response", 2.0)])
        )
        assert STYLE.sub("", legend(2.0)).split() == ["reward", "of", "a", "token", "-2", "+2"]

    def test_bad_scale(self):
        with pytest.raises(ValueError, match=r"scale in \(0, inf\)"):
            legend(0.0)


class TestHtml:
    def test_escapes(self):
        fragment = html([Segment('<script>alert("&")</script>\x1b', "response", 0.5)])
        assert "<script" not in fragment
        assert "\x1b" not in fragment
        assert text_of(fragment) == '<script>alert("&")</script>\\x1b'

    def test_tells_the_reward(self):
        assert ' title="-0.5"' in html(EPISODE)

    @given(episodes)
    def test_shows_the_same_text_as_ansi(self, episode):
        assert text_of(html(episode)) == ansi(episode, color=False)


class TestRgbArray:
    @pytest.mark.parametrize(("width", "height"), [(640, 360), (240, 120), (321, 481)])
    @pytest.mark.parametrize("copies", [0, 1, 60])
    def test_size_is_constant(self, width, height, copies):
        frame = rgb_array(EPISODE * copies, title="title " * 40, width=width, height=height)
        assert frame.shape == (height, width, 3)
        assert frame.dtype == np.uint8
        assert frame.flags.writeable

    def test_too_small(self):
        with pytest.raises(ValueError, match="Expected width >= 240 and height >= 120, got 100 x 100"):
            rgb_array([], width=100, height=100)

    @given(episodes, texts)
    def test_any_text_can_be_drawn(self, episode, title):
        assert rgb_array(episode, title=title).shape == (360, 640, 3)

    def test_same_episode_same_picture(self):
        np.testing.assert_array_equal(rgb_array(EPISODE), rgb_array(list(EPISODE)))

    def test_colors(self):
        def colors(reward: float) -> set[tuple[int, ...]]:
            body = rgb_array([Segment("token", "response", reward)], scale=1.0)[44:80]
            return set(map(tuple, body.reshape(-1, 3).tolist()))

        green, red = (92, 205, 150), (255, 138, 128)
        assert green in colors(1.0) - colors(-1.0)
        assert red in colors(-1.0) - colors(1.0)
        assert not {green, red} & colors(0.0)

    def test_text_stays_inside_the_margins(self):
        frame = rgb_array([Segment("word " * 30 + "x" * 300 + " " * 300, "response", 1.0)])
        body = frame[44:]
        assert (body[:, :14] == 255).all()
        assert (body[:, -14:] == 255).all()

    def test_backgrounds_stay_under_their_tokens(self):
        """Cut into tokens or not, a word ends at the same place: with kerning its tokens would be wider than it is."""

        def right_edge(tokens: list[str]) -> int:
            frame = rgb_array([Segment(token, "response", 1.0) for token in tokens])
            return int(np.flatnonzero((frame[46:66] == (92, 205, 150)).all(axis=2).any(axis=0)).max())

        assert right_edge(["AVAVATo."]) == right_edge(list("AVAVATo."))

    def test_a_token_that_wraps_leaves_no_color_behind(self):
        frame = rgb_array([Segment("x" * 22, "response"), Segment(" " + "y" * 15, "response", 1.0)], width=240)
        green = (frame == (92, 205, 150)).all(axis=2)
        assert not green[44:66].any()
        assert green[69:90].any()

    def test_shows_the_end_of_a_long_text(self):
        """The last line of a long text is drawn, and changes when its last word does."""
        head = [Segment("line\n" * 50, "response")]
        first, second = (rgb_array([*head, Segment(word, "response")]) for word in ("one", "two"))
        rows = np.flatnonzero((first != second).any(axis=(1, 2)))
        assert len(rows)
        assert rows.min() > 250
        assert rows.max() < 360 - 36

    def test_special_tokens_count_in_the_return_only(self):
        without, with_eos = (
            rgb_array([Segment("text", "response", 0.5), *rest], scale=1.0)
            for rest in ([], [Segment("</s>", "response", 1.0, special=True)])
        )
        assert (without[:38] != with_eos[:38]).any()
        np.testing.assert_array_equal(without[38:], with_eos[38:])

    def test_without_pillow(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ImportError, match=r'pip install "textenvs\[render\]"'):
            rgb_array(EPISODE)


def test_shown_text_survives_an_output_that_cannot_encode_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    show("é \ufffd \ud800", end="")
    assert pipe.buffer.getvalue().decode("cp1252") == "é ? ?"  # type: ignore[attr-defined]
