"""The chat templates that TRL comes with, and tokenizers for them.

python tests/chat_templates.py      # prints the table of docs/models.md
"""

import re
from importlib import resources

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from srl.chat.tokenizer import read_chat
from srl.errors import UserError

TEMPLATES = {
    path.name.removesuffix(".jinja"): path.read_text(encoding="utf-8")
    for path in sorted((resources.files("trl") / "chat_templates").iterdir(), key=lambda path: path.name)
    if path.name.endswith(".jinja") and not path.name.endswith("_training.jinja")
}

MARKS = re.compile(
    r"<[|｜][^'\"{}<> ]*?[|｜]>|<[a-z_]+\|>|<\|[a-z_]+>|<(?:end|start)_of_[a-z]+>|\[/?[A-Z]+\]|<end_of_utterance>|</?s>"
    r"|<eos>|<bos>"
)

BEGINNING = """\
| template | what it does with a prompt | what srl does | a turn ends with |
|---|---|---|---|
"""


def tokenizer_with(template, eos="<|endoftext|>", pad=None, special=()):
    """A tokenizer of bytes and of the marks that a template writes: no text is out of its vocabulary."""
    bytes_only = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=bytes_only, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = dict.fromkeys(("<|endoftext|>", eos, "<bos>", *special, *sorted(set(MARKS.findall(template or "")))))
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    names = {"eos_token": eos, "bos_token": "<bos>"} | ({"pad_token": pad} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)


def row(name):
    """What the documentation says of a template."""
    tokenizer = tokenizer_with(TEMPLATES[name])
    try:
        chat = read_chat(tokenizer, name)
    except UserError as refused:
        reason = str(refused).removeprefix(f"{name}: its chat template ").partition("; ")[0]
        return f"| {name} | {reason.replace('|', chr(92) + '|')} | refuses it | – |\n"
    does, answer = [], []
    if chat.system_in_user_turn:
        does.append("takes no system turn")
        answer.append("puts the system text at the head of the user turn")
    if chat.template != TEMPLATES[name] and "enable_thinking" in chat.template.partition("%}")[0]:
        does.append("leaves thoughts off" if chat.marks else "closes an empty thought")
        answer.append("sets `enable_thinking`")
    if chat.marks:
        does.append(f"writes a thought as `{chat.marks.open.strip()}`…`{chat.marks.close.strip()}`".replace("|", "\\|"))
        answer.append("reads and writes it so")
    if chat.opens_thought:
        does.append("opens `<think>`")
        answer.append("reads completions as if they began with it")
    if "strftime_now" in TEMPLATES[name]:
        does.append("prints the date")
        answer.append("keeps the day that the run began")
    end = tokenizer.convert_ids_to_tokens(chat.end_ids[0]).replace("|", "\\|")
    return f"| {name} | {', '.join(does) or 'opens nothing'} | {', '.join(answer) or 'nothing'} | `{end}` |\n"


def table():
    """The table of docs/models.md."""
    return BEGINNING + "".join(map(row, TEMPLATES))


if __name__ == "__main__":
    print(table(), end="")
