"""How a conversation becomes tokens, and the tokens of a completion text: one home for training and evaluation.

Chat templates differ in ways that break SRL silently: one opens `<think>` for the model, one closes it, one rewrites
the system text, one ends a turn with another token than the tokenizer's end of sequence. `read_chat` renders a probe
once, finds out what the template does, and returns a `Chat` that does the right thing, or refuses by name.

A template only ever renders prompts here. A completion is the text that follows the prompt, so the target of SFT is
that text in tokens and the end of the turn, whatever the template would make of an assistant's message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from srl.chat.prompts import STEP_SYSTEM_PROMPT
from srl.chat.thoughts import ANSWER, CLOSE_THOUGHT, OPEN_THOUGHT, Marks, find_marks
from srl.chat.trial import check_template
from srl.errors import UserError
from srl.runs.model import loading

SWITCHES: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"thinking": True})
"""Arguments that public templates know, in the order in which they are tried."""

PROBLEM = "How much is 2 + 2? <think>"

_DATE = re.compile(r"strftime_now\(\s*(?:\"(.*?)\"|'(.*?)')\s*\)")


@dataclass(frozen=True)
class Chat:
    """What the tokenizer and the chat template of one model do with conversations."""

    tokenizer: PreTrainedTokenizerBase
    """Its chat template has the options that were chosen as defaults, so a model saved with it is asked likewise."""
    template: str
    """The same chat template, with the date filled in where it prints one."""
    system_in_user_turn: bool = False
    """The template takes no system turn, or changes its text: the text goes to the head of the user turn."""
    opens_thought: bool = False
    """The prompt ends in an opened `<think>`."""
    marks: Marks | None = None
    """What the template writes in place of `<think>` and `</think>`, if it does."""
    end_ids: tuple[int, ...] = ()
    """The tokens that end a turn; the first is the one that the template writes."""

    @property
    def opening(self) -> str:
        """What the prompt has already written of every completion: `<think>` or nothing."""
        return OPEN_THOUGHT * self.opens_thought

    def prompt_ids(self, prompts: Sequence[Any]) -> list[list[int]]:
        """The tokens of each prompt, up to where the completion begins."""
        return self.tokenizer.apply_chat_template(
            [self.turns(prompt) for prompt in prompts],
            chat_template=self.template,
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]

    def prompt_text(self, prompt: Sequence[Mapping[str, Any]]) -> str:
        """The prompt as the model reads it."""
        return self.tokenizer.apply_chat_template(
            self.turns(prompt), chat_template=self.template, add_generation_prompt=True, tokenize=False
        )

    def encode(self, completion: str) -> list[int]:
        """The tokens of (the beginning of) a completion, without what the prompt has already written of it.

        Where the prompt has opened a thought, a completion without one closes it first.
        """
        if not completion.startswith(self.opening):
            completion = f"{self.opening}\n</think>\n\n{completion}"
        written = self.marks.written(completion) if self.marks else completion
        return self.tokenizer.encode(written.removeprefix(self._opened), add_special_tokens=False)

    def target_ids(self, completion: str) -> list[int]:
        """The tokens of a whole completion and the end of the turn: what SFT learns."""
        return [*self.encode(completion), self.end_ids[0]]

    def text(self, completion_ids: Sequence[int]) -> str:
        """A sampled completion as text, up to the end of the turn and with what the prompt had already written of it.

        Special tokens stay: `<think>` is one in some vocabularies, and any other is no part of a good action.
        """
        end = next((i for i, token in enumerate(completion_ids) if token in self.end_ids), len(completion_ids))
        written = self.tokenizer.decode(
            completion_ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        written = self._opened + written
        return self.marks.read(written) if self.marks else written

    @property
    def _opened(self) -> str:
        """`opening` as the template writes it."""
        return (self.marks.open if self.marks else OPEN_THOUGHT) * self.opens_thought

    def turns(self, prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The prompt's turns as the template takes them."""
        turns = [dict(turn) for turn in prompt]
        if self.system_in_user_turn and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
            turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
        return turns


def load_chat(model_path: str, **options: Any) -> Chat:
    """The `Chat` of a model folder or Hub id; options as for `read_chat`.

    Raises:
        UserError: no tokenizer there, or none that can render our conversations.
    """
    with loading(model_path, "tokenizer"):  # not on the Hub, no network, none in the folder, a broken one
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    if tokenizer.chat_template is not None:
        check_template(tokenizer.get_chat_template(), model_path)
    try:
        stops = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:
        stops = None  # a model without generation_config.json
    return read_chat(tokenizer, model_path, stop_ids=as_list(stops), **options)


def as_list(ids: int | Iterable[int] | None) -> list[int]:
    """Token ids as configurations write them: one, several or none."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def read_chat(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    stop_ids: Iterable[int] = (),
    template_kwargs: Mapping[str, Any] | None = None,
    open_thought: bool = False,
    today: date | None = None,
) -> Chat:
    """Find out what a tokenizer's chat template does with our prompts.

    `stop_ids` are further tokens at which the model stops, `template_kwargs` options of the template (else its own
    switches are tried), `open_thought` ends every prompt with `<think>`, `today` is the date for templates that print
    one. What was chosen becomes part of the tokenizer's template; without a pad token it pads with the end of the turn.

    Raises:
        UserError: `name` has no chat template, or one with which SRL's format cannot be right, and why.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"{name}: its tokenizer has no chat template; use an instruction-tuned model or add one")
    given = tokenizer.get_chat_template()
    problems: list[str] = []
    switches = SWITCHES if not template_kwargs else (dict(template_kwargs),)
    for options, in_user_turn in product(switches, (False, True)):
        template = with_defaults(given, options)
        chat = Chat(tokenizer, with_date(template, today or date.today()), in_user_turn)
        problem, opens, marks = _probe(chat)
        if problem is None and not template_kwargs and marks and _is_switched_off(chat):
            problem = "leaves thoughts off"
        if problem is None:
            break
        problems.append(problem)
    else:
        raise UserError(
            f"{name}: its chat template {problems[0]}; use another template, or set chat.template_kwargs "
            "to what makes it leave the thought to the model"
        )
    if open_thought and not opens:
        template += opening_with(marks.open if marks else OPEN_THOUGHT)
    tokenizer.chat_template = template
    within = tokenizer.encode(marks.open + marks.close, add_special_tokens=False) if marks else []
    further = [end for end in (tokenizer.eos_token_id, *stop_ids) if end not in within]  # a thought ends no turn
    ends = dict.fromkeys(end for end in (_turn_end(chat), *further) if end is not None)
    if not ends:
        raise UserError(f"{name}: neither its chat template nor its tokenizer has a token that ends a turn")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(next(iter(ends)))
    dated = with_date(template, today or date.today())
    return Chat(tokenizer, dated, in_user_turn, opens or open_thought, marks, tuple(ends))


def with_defaults(template: str, options: Mapping[str, Any]) -> str:
    """The template with other defaults for its options: Jinja reads Python's literals."""
    defaults = (f"{{%- set {name} = {name} if {name} is defined else {value!r} %}}" for name, value in options.items())
    return "".join(defaults) + template


def opening_with(mark: str) -> str:
    """At the end of a template: every prompt ends with the mark."""
    return f"{{%- if add_generation_prompt %}}{{{{- {mark!r} }}}}{{%- endif %}}"


_OPENING = re.compile(re.escape(opening_with("")).replace("''", r"'[^'\n]*'") + r"\Z")
"""Such an end, of a tokenizer that was saved with it."""


def with_date(template: str, today: date) -> str:
    """The template with `today` in place of the date that it would ask the clock for."""
    return _DATE.sub(lambda call: repr(today.strftime(call[1] or call[2])), template)


def _probe(chat: Chat) -> tuple[str | None, bool, Marks | None]:
    """What in the rendered probe makes SRL's format impossible (None: nothing), whether it opens a thought, and how."""
    prompt = [{"role": "system", "content": STEP_SYSTEM_PROMPT}, {"role": "user", "content": PROBLEM}]
    try:
        text = chat.prompt_text(prompt)
    except (TemplateError, TypeError, ValueError) as error:
        return f"cannot render a system and a user turn ({' '.join(str(error).split())[:80]})", False, None
    for what, wanted in (("system", STEP_SYSTEM_PROMPT), ("user", PROBLEM)):
        if wanted not in text:
            return f"changes the text of the {what} turn", False, None
    added = [token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.content]
    plain = replace(chat, template=_OPENING.sub("", chat.template)).prompt_text(prompt)
    marks, problem = find_marks(chat.template, plain, PROBLEM, lambda turn: _rendered(chat, [*prompt, turn]), added)
    if problem:
        return problem, False, None
    tail = text.rpartition(PROBLEM)[2]
    opening, closing = (marks.open, marks.close) if marks else (OPEN_THOUGHT, CLOSE_THOUGHT)
    if closing.strip() in tail:
        return "ends the prompt with a closed thought", False, None
    return None, opening.strip() in tail, marks


def _is_switched_off(chat: Chat) -> bool:
    """Whether the template asks for thoughts only if it is told to."""
    turns = [{"role": "user", "content": PROBLEM}]
    asked = {"chat_template": chat.template, "add_generation_prompt": True, "tokenize": False}
    return chat.tokenizer.apply_chat_template(turns, **asked) != chat.tokenizer.apply_chat_template(
        turns, **asked, enable_thinking=True
    )


def _turn_end(chat: Chat) -> int | None:
    """The token that the template writes after an assistant's message; None if it is no token of its own."""
    text = _rendered(chat, [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": ANSWER}])
    after = (text or "").rpartition(ANSWER)[2].lstrip()
    added = chat.tokenizer.added_tokens_decoder
    ending = [index for index, token in added.items() if token.content and after.startswith(token.content)]
    return max(ending, key=lambda index: len(added[index].content), default=None)


def _rendered(chat: Chat, turns: list[dict[str, Any]]) -> str | None:
    """A conversation that ends with an assistant's message; None where the template takes none."""
    try:
        return chat.tokenizer.apply_chat_template(chat.turns(turns), chat_template=chat.template, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return None


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds the special tokens (a turn's end, padding, …) that a text would bring into a conversation.

    The tags of a thought are none, whatever the vocabulary says: our own prompts speak of them.
    """
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = {*marked, *tokenizer.all_special_tokens} - {"", OPEN_THOUGHT, "</think>"}
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
