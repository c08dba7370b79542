"""Pictures of an episode for people: the text, with each token coloured by its reward.

`lane_segments` reads a lane and cuts its episode into `Segment`s (the prompt is one, each token of the response is one,
each token of a reply is one). All else here is pure functions from segments to something to look at.

One rule holds in all three views: the text of an episode can never do more than be read. A language model samples any
character there is, and terminals obey some of them (escape sequences move the cursor and retitle the window,
bidirectional overrides reorder what stands beside them), so such characters are shown as their escapes.
"""

from __future__ import annotations

import math
import os
import re
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape as escape_html
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice, check_number
from textenvs.tokenizer import decode_prompt, decode_tokens

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from textenvs.lanes import Lanes

Kind = Literal["prompt", "response", "environment"]
Color = tuple[int, int, int]

# Red and green that also differ in lightness and in their share of blue, so that they stay apart for red-green blind
# readers. A terminal's text is white on them, and paper's is dark, hence two sets.
_TERMINAL_NEUTRAL: Color = (72, 72, 76)
_TERMINAL_NEGATIVE: Color = (190, 24, 44)
_TERMINAL_POSITIVE: Color = (0, 132, 92)
_PAPER_NEUTRAL: Color = (238, 238, 240)
_PAPER_NEGATIVE: Color = (255, 138, 128)
_PAPER_POSITIVE: Color = (92, 205, 150)
_INK: dict[Kind, Color] = {"prompt": (134, 138, 148), "response": (24, 26, 32), "environment": (44, 92, 190)}
_LEGEND_STEPS = 9
_TEXT_SIZE = 15


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an episode's text that has one author and one reward.

    Attributes:
        text: The text that this piece adds to the page. Empty for a token that ends inside a character.
        kind: The author: "prompt", "response" (the agent) or "environment" (its reply in a multi-turn task).
        reward: The reward that the environment paid for it, or None where nothing is paid (prompts, for one).
        special: True for a special token. It prints as nothing, and its reward counts in the total all the same.

    Raises:
        ValueError: If the kind is unknown or the reward is NaN or infinite.
    """

    text: str
    kind: Kind
    reward: float | None = None
    special: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        if self.reward is not None and not math.isfinite(self.reward):
            raise ValueError(f"Expected a finite reward or None, got {self.reward}")


def lane_segments(lanes: Lanes, lane: int) -> list[Segment]:
    """Cuts one lane's episode into segments.

    Args:
        lanes: The lanes; their tokens have rewards only if they were made with `keep_rewards`.
        lane: The number of the lane.

    Returns:
        The prompt, then each token behind it.
    """
    pieces = lanes.tokenizer.pieces
    ids = lanes.input_ids[lane, : lanes.length[lane]].tolist()
    begin = int(lanes.prompt_length[lane])
    segments = [Segment(decode_prompt(lanes.tokenizer, ids[:begin]), "prompt")]
    texts = decode_tokens(lanes.tokenizer, ids[begin:])
    action = 0
    for token, text, by_agent in zip(ids[begin:], texts, lanes.response_mask[lane, begin:].tolist(), strict=False):
        if not by_agent:
            segments.append(Segment(text, "environment", special=not pieces[token]))
            continue
        reward = None if lanes.token_rewards is None else float(lanes.token_rewards[lane, action])
        segments.append(Segment(text, "response", reward, special=not pieces[token]))
        action += 1
    return segments


def render_lane(lanes: Lanes, lane: int, render_mode: str, title: str) -> Any:
    """Renders one lane as text ("ansi") or as a picture ("rgb_array").

    Args:
        lanes: Lanes that keep rewards.
        lane: The number of the lane.
        render_mode: "ansi" or "rgb_array".
        title: The text above a picture; the score is put behind it.

    Returns:
        A string, or `(height, width, 3)` uint8.
    """
    segments = lane_segments(lanes, lane)
    if render_mode == "ansi":
        return ansi(segments)
    return rgb_array(segments, title=f"{title}   score {lanes.score[lane]:+.3f}")


def ansi(segments: Sequence[Segment], *, scale: float | None = None, color: bool = True) -> str:
    r"""Renders an episode as text for a terminal.

    The prompt is dim, the environment's replies are blue, and each token of the response stands on a background
    from red (a negative reward) over grey to green (a positive one). A reward of exactly 0 leaves the background alone,
    so that a sparse payout does not paint the page grey.

    Args:
        segments: The episode, in order.
        scale: The |reward| that gets the full colour. None takes the largest in the episode.
        color: If False, the text comes without colours, for pipes and logs.

    Returns:
        The text, with newlines as they are and with every other control character shown as its escape. Each colour
        ends before the line does: a terminal would paint the rest of the line with it.

    Raises:
        ValueError: If `scale` is not a positive finite number.

    Example:
        >>> ansi([Segment("Once", "prompt"), Segment(" more\x1b[2J", "response", 0.5)], color=False)
        'Once more\\x1b[2J'
    """
    scale = _resolve_scale(segments, scale)
    parts: list[str] = []
    for segment in segments:
        text = "" if segment.special else visible(segment.text)
        if not text:
            continue
        style = _ansi_style(segment, scale) if color else ""
        if not style:
            parts.append(text)
            continue
        for position, line in enumerate(text.split("\n")):
            if position:
                parts.append("\n")
            if line:
                parts.append(f"{style}{line}\x1b[0m")
    return "".join(parts)


def legend(scale: float | None = None, *, color: bool = True) -> str:
    """Explains the colours of `ansi` in one line.

    Args:
        scale: The |reward| that gets the full colour. None leaves the numbers out.
        color: If False, it is said in words.

    Returns:
        The line, without a newline.

    Raises:
        ValueError: If `scale` is not a positive finite number.

    Example:
        >>> legend(0.5, color=False)
        'reward of a token: red -0.5, grey near 0, green +0.5'
    """
    check_number("scale", scale, low=0, open_low=True, optional=True)
    low, high = ("-", "+") if scale is None else (f"-{scale:.3g}", f"+{scale:.3g}")
    if not color:
        return f"reward of a token: red {low}, grey near 0, green {high}"
    bar = "".join(f"\x1b[48;2;{_rgb(_blend(x, paper=False))}m  " for x in _legend_values())
    return f"\x1b[2mreward of a token\x1b[0m {low} {bar}\x1b[0m {high}"


def html(segments: Sequence[Segment], *, scale: float | None = None) -> str:
    """Renders an episode as a fragment of HTML, for reports.

    Args:
        segments: The episode, in order.
        scale: The |reward| that gets the full colour. None takes the largest in the episode.

    Returns:
        A `<pre>` with its styles inline and all text escaped. A rewarded token tells its reward on hover.

    Raises:
        ValueError: If `scale` is not a positive finite number.

    Example:
        >>> html([Segment("1 < 2", "prompt")])
        '<pre class="episode" style="white-space:pre-wrap"><span style="color:rgb(134,138,148)">1 &lt; 2</span></pre>'
    """
    scale = _resolve_scale(segments, scale)
    parts = ['<pre class="episode" style="white-space:pre-wrap">']
    for segment in segments:
        text = "" if segment.special else visible(segment.text)
        if not text:
            continue
        r, g, b = _INK[segment.kind]
        style, title = f"color:rgb({r},{g},{b})", ""
        if segment.reward:
            r, g, b = _blend(segment.reward / scale, paper=True)
            style += f";background:rgb({r},{g},{b})"
            title = f' title="{segment.reward:+.4g}"'
        parts.append(f'<span style="{style}"{title}>{escape_html(text)}</span>')
    parts.append("</pre>")
    return "".join(parts)


def rgb_array(
    segments: Sequence[Segment],
    *,
    title: str = "",
    width: int = 640,
    height: int = 360,
    scale: float | None = None,
    measure: tuple[str, str] = ("return", "reward"),
) -> NDArray[np.uint8]:
    """Draws an episode as a picture of constant size, for videos and papers.

    A title and the sum of the rewards stand above the text, the legend of the colours below it. Text is wrapped at
    spaces; of a text that is too long the end is shown, under an ellipsis. Pillow's own font is used, the same on every
    machine; it has Latin letters, and a box for every character beyond them.

    Args:
        segments: The episode, in order.
        title: The text at the top left, cut to what fits.
        width: Pixels, at least 240.
        height: Pixels, at least 120.
        scale: The |reward| that gets the full colour. None takes the largest in the episode. Frames of one video want
            one scale, or a token's colour changes as later rewards arrive.
        measure: The name of the sum of the segments' numbers, and of one of them.

    Returns:
        The picture, (height, width, 3) uint8, writable.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If the picture is too small to hold text, or `scale` is not a positive finite number.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(
            'Pillow is needed to draw an episode. Install it with: pip install "textenvs[render]"'
        ) from error
    if width < 240 or height < 120:
        raise ValueError(f"Expected width >= 240 and height >= 120, got {width} x {height}")
    scale = _resolve_scale(segments, scale)
    margin, header, footer, line_height = 16, 46, 36, 23
    font = _font(_TEXT_SIZE)
    image = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(image)

    total = f"{measure[0]} {sum(s.reward for s in segments if s.reward is not None):+.3f}"
    total_width = font.getlength(total)
    draw.rectangle((0, 0, width, header - 8), fill=(246, 247, 249))
    draw.line((0, header - 8, width, header - 8), fill=(222, 224, 230))
    shown_title = visible(title).replace("\n", " ")
    draw.text((margin, 9), _fit(shown_title, width - 3 * margin - total_width), font=font, fill=(60, 64, 74))
    draw.text((width - margin - total_width, 9), total, font=font, fill=(24, 26, 32))

    text, spans = _spans(segments)
    lines = _wrap(text, width - 2 * margin)
    room = (height - header - footer) // line_height
    hidden = len(lines) - room + 1 if len(lines) > room else 0
    if hidden:
        draw.text((margin, header + 2), "…", font=font, fill=_INK["prompt"])
    for row, (start, end) in enumerate(lines[hidden:], start=1 if hidden else 0):
        _draw_line(
            draw, text, start, end, spans, scale, left=margin, right=width - margin, top=header + row * line_height
        )

    _draw_legend(draw, scale, measure[1], right=width - margin, top=height - footer + 13)
    return np.array(image, dtype=np.uint8)


def visible(text: str) -> str:
    r"""Writes the characters that a terminal would obey, or would not show, as their Python escapes.

    Args:
        text: Any text.

    Returns:
        The text with control, format and surrogate characters as escapes. Newlines stay, and so do the two joiners,
        which Persian, Indic scripts and emoji are spelled with.

    Example:
        >>> visible("a\tb\u202e")
        'a\\tb\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSAFE and c not in _KEPT else c for c in text)


_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_KEPT = frozenset("\n\u200c\u200d")


def takes_colors() -> bool:
    """Returns True if what is printed goes to a terminal that shows colours, and the user has not set NO_COLOR.

    Returns:
        False for files and pipes, which would keep the escape sequences.

    Source: https://no-color.org
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(getattr(sys.stdout, "isatty", lambda: False)())


def visible_line(text: str) -> str:
    r"""Writes a name as `visible` does, on one line.

    Args:
        text: Any text.

    Returns:
        The text, its newlines as escapes, too.

    Example:
        >>> visible_line("two\nlines")
        'two\\nlines'
    """
    return visible(text).replace("\n", "\\n")


def show(text: str, end: str = "\n") -> None:
    """Prints a text at once; a character that the output cannot encode (cp1252, say) becomes a question mark.

    Args:
        text: Any text.
        end: Printed behind it.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end=end, flush=True)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _resolve_scale(segments: Iterable[Segment], scale: float | None) -> float:
    """Returns the caller's scale, or the largest |reward|, or 1 for an episode that has nothing to colour."""
    if scale is not None:
        return check_number("scale", scale, low=0, open_low=True)
    return max((abs(s.reward) for s in segments if s.reward), default=1.0)


def _blend(strength: float, *, paper: bool) -> Color:
    """Returns the background of a reward, from -1 (full red) over 0 (grey) to 1 (full green), clipped to these."""
    neutral = _PAPER_NEUTRAL if paper else _TERMINAL_NEUTRAL
    positive, negative = (_PAPER_POSITIVE, _PAPER_NEGATIVE) if paper else (_TERMINAL_POSITIVE, _TERMINAL_NEGATIVE)
    target = positive if strength > 0 else negative
    # The square root lifts small rewards off the grey: most tokens of an episode earn a fraction of its best one.
    weight = math.sqrt(min(abs(strength), 1.0))
    r, g, b = (round(n + weight * (t - n)) for n, t in zip(neutral, target, strict=True))
    return r, g, b


def _rgb(color: Color) -> str:
    return ";".join(map(str, color))


def _ansi_style(segment: Segment, scale: float) -> str:
    if segment.kind == "prompt":
        return "\x1b[2m"
    if segment.reward:
        return f"\x1b[38;2;255;255;255;48;2;{_rgb(_blend(segment.reward / scale, paper=False))}m"
    return "\x1b[34m" if segment.kind == "environment" else ""


def _legend_values() -> list[float]:
    return [2 * i / (_LEGEND_STEPS - 1) - 1 for i in range(_LEGEND_STEPS)]


Span = tuple[int, int, Segment]
"""A segment and its stretch of the episode's text: from its first character to the one after its last."""


def _spans(segments: Iterable[Segment]) -> tuple[str, list[Span]]:
    """Joins the text that is shown, and notes the stretch of each segment. Segments that show nothing are left out."""
    parts: list[str] = []
    spans: list[Span] = []
    position = 0
    for segment in segments:
        text = "" if segment.special else visible(segment.text)
        if text:
            parts.append(text)
            spans.append((position, position + len(text), segment))
            position += len(text)
    return "".join(parts), spans


@lru_cache(maxsize=4)
def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("Expected a Pillow with FreeType support, got one without. It cannot draw Unicode text.")
    return font


@lru_cache(maxsize=65536)
def _text_width(text: str, size: int = _TEXT_SIZE) -> float:
    return _font(size).getlength(text)


def _fit(text: str, width: float) -> str:
    """Returns the text, or as much of its beginning as fits `width` pixels together with an ellipsis."""
    if _text_width(text) <= width:
        return text
    length = bisect_right(range(len(text)), width, key=lambda n: _text_width(text[:n] + "…")) - 1
    return text[: max(length, 0)] + "…"


def _wrap(text: str, width: float) -> list[tuple[int, int]]:
    """Breaks text into lines: at newlines, then at spaces, then, in a word longer than a line, anywhere.

    Args:
        text: The text.
        width: Pixels in a line.

    Returns:
        The positions of each line's first character and of the one after its last, newlines left out.
    """
    lines: list[tuple[int, int]] = []
    line_start = 0
    for line in text.split("\n"):
        start, x = line_start, 0.0
        for match in re.finditer(r"\S+\s*|\s+", line):
            word_start, word_end = line_start + match.start(), line_start + match.end()
            word = match.group().rstrip()
            # Spaces at the end of a line hang over its edge, so a word breaks on its own width.
            if x and x + _text_width(word) > width:
                lines.append((start, word_start))
                start, x = word_start, 0.0
            if _text_width(word) > width:
                for position, character in enumerate(word, start=word_start):
                    if x and x + _text_width(character) > width:
                        lines.append((start, position))
                        start, x = position, 0.0
                    x += _text_width(character)
                x += _text_width(text[word_start + len(word) : word_end])
            else:
                x += _text_width(match.group())
        line_start += len(line)
        lines.append((start, line_start))
        line_start += 1
    return lines


def _draw_line(
    draw: ImageDraw,
    text: str,
    start: int,
    end: int,
    spans: list[Span],
    scale: float,
    *,
    left: int,
    right: int,
    top: int,
) -> None:
    """Draws the backgrounds of one line, then its text on them: one call for each author, which makes it fast."""
    x = float(left)
    stretches: list[tuple[float, int, int, Kind]] = []
    for span_start, span_end, segment in spans[bisect_right(spans, start, key=lambda span: span[1]) :]:
        if span_start >= end:
            break
        first, last = max(span_start, start), min(span_end, end)
        if not stretches or stretches[-1][3] != segment.kind:
            stretches.append((x, first, last, segment.kind))
        origin, stretch_first, _, kind = stretches[-1]
        stretches[-1] = (origin, stretch_first, last, kind)
        part = text[first:last]
        # Widths add up: Pillow's font has no kerning.
        next_x = x + _text_width(part)
        # A token that crosses to the next line leaves its space on this one: not worth a stub of colour.
        is_uncut = last - first == span_end - span_start
        if segment.reward and x < right and (is_uncut or not part.isspace()):
            fill = _blend(segment.reward / scale, paper=True)
            # One pixel short, so that neighbours stay apart, yet never less than one wide.
            edge = max(round(x), min(round(next_x) - 2, right))
            draw.rectangle((round(x), top, edge, top + 20), fill=fill)
        x = next_x
    for origin, first, last, kind in stretches:
        draw.text((origin, top + 1), text[first:last], font=_font(_TEXT_SIZE), fill=_INK[kind])


def _draw_legend(draw: ImageDraw, scale: float, measure: str, *, right: int, top: int) -> None:
    """Draws the colours of the rewards with the two ends of their scale, flush right."""
    font, cell = _font(12), 14
    high, low = f"+{scale:.3g}", f"-{scale:.3g}"
    x = right - font.getlength(high)
    draw.text((x, top), high, font=font, fill=_INK["prompt"])
    x = round(x) - 6 - cell * _LEGEND_STEPS
    for i, value in enumerate(_legend_values()):
        draw.rectangle((x + i * cell, top + 1, x + (i + 1) * cell - 1, top + 13), fill=_blend(value, paper=True))
    label = f"{measure} of a token   {low}"
    draw.text((x - 6 - font.getlength(label), top), label, font=font, fill=_INK["prompt"])
