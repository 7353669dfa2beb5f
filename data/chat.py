"""Conversations as tokens, by a tokenizer's chat template: the same in training, serving and exports.

The tokens are those of ``apply_chat_template`` of ``transformers``, with one difference: a control token that
is written in a message is mere letters there, so that nobody can end a turn or begin another one's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from data.tokenizer import continuing, end_of_text, end_of_text_id
from data.tokenizer_config import TOKENS
from odeformer.files.errors import panics_are_errors, reason

DEFAULT = (
    "{{ BEGIN }}"
    "{% if tools %}{{ 'Tools:\n' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ message.role | capitalize + ':\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{{ '\n' + (call.function | tojson) }}{% endfor %}"
    "{{ END }}"
    "{% endgeneration %}{% else %}{{ message.content or '' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""The template of a tokenizer without one: a line with the role, then the text. The assistant's ends with
end-of-text. ``BEGIN`` and ``END`` stand for a tokenizer's own begin-of-text, if any, and end-of-text."""

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around a control token in a message. They are no characters: Unicode keeps them for uses such as this."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Encoded(NamedTuple):
    """A conversation as tokens."""

    ids: list[int]
    turns: list[range]
    """The places in ``ids`` of what the assistant wrote, turn by turn, with the token that ends it."""


def default_template(tokenizer: Tokenizer) -> str:
    """:data:`DEFAULT` with the tokenizer's own tokens in it."""
    begin = "".join(tokenizer.encode("").tokens)
    return DEFAULT.replace("END", repr(end_of_text(tokenizer))).replace("BEGIN", repr(begin))


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer with its chat template, which runs in the sandbox of ``transformers``."""

    tokenizer: Tokenizer
    config: Mapping[str, Any]
    """The content of a ``tokenizer_config.json``: the template, and the special tokens that it may name."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: Mapping[str, Any]) -> ChatTemplate:
        """The template in a ``tokenizer_config.json``, or else the default one."""
        known = config.get("chat_template")
        if isinstance(known, list):  # several by name, as transformers wrote them before
            known = {each["name"]: each["template"] for each in known}.get("default")
        end = end_of_text(tokenizer)
        known = known or default_template(tokenizer)
        return cls(tokenizer, {"eos_token": end, "pad_token": end, **config, "chat_template": known})

    @property
    def text(self) -> str:
        """The template in the language of Jinja."""
        return str(self.config["chat_template"])

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation and of the beginning of the assistant's answer.

        Raises:
            ValueError: if the template refuses the conversation.
        """
        return self._tokens(self._render(messages, None, add_generation_prompt=True)[0])[0]

    def encode_turns(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
    ) -> Encoded:
        """The tokens of a whole conversation, and which of them the assistant wrote.

        That is what the template puts into ``{% generation %}`` blocks; if it has none, what a turn adds to
        the conversation before it.

        Args:
            messages: the messages, with their ``role``, ``content`` and whatever else the template reads.
            tools: descriptions of the tools that the assistant may call.

        Raises:
            ValueError: if the template refuses the conversation, or its turns cannot be told apart.
        """
        is_marked = bool(_GENERATION.search(self.text))
        text, parts = self._render(messages, tools, return_assistant_tokens_mask=is_marked)
        if not is_marked:
            parts = self._added_by_turns(messages, tools, text)
        ids, places = self._tokens(text)
        turns = []
        for first, last in parts:
            own = [i for i, (start, end) in enumerate(places) if start < last and end > first]
            turns.append(range(own[0], own[-1] + 1) if own and first < last else range(0))
        return Encoded(ids, turns)

    @cached_property
    def stop_id(self) -> int:
        """The token that ends the assistant's turn; end-of-text if the template has no other."""
        turns: list[range] = []
        try:
            asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
            ids, turns = self.encode_turns(asked)
        except ValueError:
            pass
        added = self.tokenizer.get_added_tokens_decoder()
        ends = [ids[place] for turn in turns for place in turn if ids[place] in added]
        return ends[-1] if ends else end_of_text_id(self.tokenizer)

    def _added_by_turns(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, text: str
    ) -> list[tuple[int, int]]:
        parts = []
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before, _ = self._render(messages[:number], tools, add_generation_prompt=True)
                after, _ = self._render(messages[: number + 1], tools)
                if not (after.startswith(before) and text.startswith(after)):
                    raise ValueError(
                        "the chat template writes a turn in another way once others follow: put the "
                        "assistant's text in its {% generation %} blocks"
                    )
                parts.append((len(before), len(after)))
        return parts

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, **how: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, in which foreign control tokens are marked, and the generated parts."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        tokens = {name: self.config[name] for name in TOKENS if name in self.config}
        try:
            [text], parts = render_jinja_template(
                [self._marked(list(messages))],
                tools=self._marked(tools),
                chat_template=self.text,
                **tokens,
                **how,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"the chat template refuses it: {reason(error)}") from None
        return str(text), parts[0] if parts else []

    @cached_property
    def _control(self) -> str:
        """A regular expression of the tokens that only the template may write."""
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        named = {end_of_text(self.tokenizer), *(str(self.config.get(name)) for name in TOKENS)}
        control = [t for t in added if not t.isspace() and (t in named or t in self.text)]
        return "|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)"

    def _marked(self, value: Any) -> Any:
        """Messages in which every control token is between two marks."""
        if isinstance(value, str):
            return re.sub(self._control, rf"{_OPEN}\g<0>{_CLOSE}", re.sub(f"[{_OPEN}{_CLOSE}]", "", value))
        if isinstance(value, Mapping):
            return {key: self._marked(inner) for key, inner in value.items() if inner is not None}
        return [self._marked(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a rendered text, and the first character of each and that after its last."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []

        def add(tokenizer: Tokenizer, first: int, last: int) -> None:
            encoding = tokenizer.encode(text[first:last], add_special_tokens=False)
            ids.extend(encoding.ids)
            places.extend((start + first, end + first) for start, end in encoding.offsets)

        at = 0
        with panics_are_errors():
            for match in re.finditer(f"{_OPEN}({self._control}){_CLOSE}|[{_OPEN}{_CLOSE}]", text):
                add(_reading(self.tokenizer, True, at > 0), at, match.start())
                if match[1] is not None:
                    add(_reading(self.tokenizer, False, True), *match.span(1))
                at = match.end()
            add(_reading(self.tokenizer, True, at > 0), at, len(text))
        return ids, places


@lru_cache(maxsize=12)
def _reading(tokenizer: Tokenizer, control: bool, continues: bool) -> Tokenizer:
    """A copy of a tokenizer that reads its control tokens as such, or else as letters."""
    content = json.loads((continuing(tokenizer) if continues else tokenizer).to_str())
    for token in content["added_tokens"]:
        token["special"] = not control
    copy = Tokenizer.from_str(json.dumps(content))
    copy.encode_special_tokens = not control
    return copy
