"""The agent setting: mini-swe-agent drives the model, a command at a time, with the sandbox as its machine.

mini-swe-agent (a released package, the extra `agent`) brings the loop, its instructions and the rule for what a command
is (its configuration for SWE-bench by text, `swebench_backticks.yaml`). Two things are ours. Its commands run in
`shell.py`. And the model is asked for the next action as `srl steps` would ask for it, were the run so far the
trajectory of an expert: training and evaluation have one format. What the model wrote is kept as a trajectory of
mini-swe-agent, which `srl steps` reads.

Only `predict.py` imports this, once `require_mini` has found the package.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal

import minisweagent
import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment, LocalEnvironmentConfig
from minisweagent.exceptions import FormatError, LimitsExceeded
from minisweagent.models.utils.actions_text import format_observation_messages, parse_regex_actions

from srl.chat.conversation import conversation
from srl.chat.prompts import SEPARATOR
from srl.data.formats import mini_swe_agent
from srl.data.formats.thoughts import split_thought
from srl.data.steps import Context, step_instances
from srl.engines.protocols import PROMPT_TOO_LONG, Reply
from srl.evaluation.swe.instances import Instance
from srl.evaluation.swe.protocols import CHARACTERS_PER_TOKEN, prompt_tokens
from srl.evaluation.swe.repository import Repository, source_tree
from srl.evaluation.swe.shell import Shell, ShellEnded, open_shell
from srl.files import Row
from srl.records import Message
from srl.rewards.sandbox.walls import Limits, Sandbox

MOST_REFUSED = 3
"""Answers without a command, one after another: mini-swe-agent's own limit."""
ACTION = r"```mswea_bash_command\s*\n(.*?)\n```"
"""mini-swe-agent's own rule for answers in text."""
ANY_ACTION: dict[str, Any] = {"role": "assistant", "content": "```mswea_bash_command\n:\n```"}
ENDS = {"LimitsExceeded": "step limit", "RepeatedFormatError": f"no command in {MOST_REFUSED} answers"}
"""mini-swe-agent's words for how it ended, in ours; what is not here stands as it is."""


@dataclass(frozen=True, slots=True)
class AgentBudget:
    """What an agent may use for an instance."""

    max_steps: int
    """Answers of the model, refused ones included."""
    max_agent_tokens: int
    """That it writes in all."""
    max_input_tokens: int
    """Of one prompt, at three characters a token."""
    command_seconds: float
    context: Context
    asked_in: Literal["steps", "turns"]
    system_prompt: str


class _Dropped(Exception):
    """Nobody waits for this run any more."""


class AgentRun:
    """One run of the agent, which stops where it needs an answer: `prompt` until `end`, as in `protocols.py`.

    mini-swe-agent's loop is a function that returns at its end; it runs in a thread of its own, one at a time with
    whoever asks the model.
    """

    def __init__(self, instance: Instance, repository: Repository, sandbox: Sandbox, budget: AgentBudget) -> None:
        self.instance, self.repository, self.sandbox, self.budget = instance, repository, sandbox, budget
        self.replies: list[Reply] = []
        self.prompt: tuple[Message, ...] = ()
        self.end: str | None = None
        self.patch = ""
        self.trajectory: dict[str, Any] = {}
        """In mini-swe-agent's format; there once it has ended."""
        self._answers: SimpleQueue[Reply | Exception] = SimpleQueue()
        self._events: SimpleQueue[tuple[Message, ...] | BaseException | None] = SimpleQueue()
        self._shell: Shell | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def take(self, reply: Reply) -> None:
        """Go on with what the model wrote, as far as the next question."""
        self.replies.append(reply)
        self._answers.put(reply)
        self._wait()

    def refuse(self) -> None:
        """End without an answer to the prompt, which is too long."""
        self._answers.put(LimitsExceeded(_exit(PROMPT_TOO_LONG)))
        self._wait()

    def close(self) -> None:
        """End a run that is not waited for any more, and what it started."""
        self._answers.put(_Dropped())
        if self._shell:
            self._shell.end()
        self._thread.join()

    def ask(self, prompt: tuple[Message, ...]) -> Reply:
        """The agent's side: hand out a question and wait for the answer.

        Raises:
            LimitsExceeded, _Dropped: there will be none.
        """
        self._events.put(prompt)
        if isinstance(reply := self._answers.get(), Exception):
            raise reply
        return reply

    def _wait(self) -> None:
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        if event is not None:
            self.prompt = event

    def _run(self) -> None:
        try:
            with ExitStack() as opened:
                ended = self._drive(lambda: self._open_shell(opened))
        except BaseException as error:  # for whoever waits
            self.end = "dropped"
            self._events.put(error)
            return
        self.patch = str(ended.get("submission") or "")
        status = str(ended.get("exit_status"))
        if status == "Submitted":
            self.end = "patch" if self.patch.strip() else "submitted nothing"
        else:
            self.end = ENDS.get(status, status)
        self._events.put(None)

    def _drive(self, shell: Callable[[], Shell]) -> Mapping[str, Any]:
        config = mini_config()
        agent = DefaultAgent(
            _Model(self, config["model"]),
            _Environment(shell, self.sandbox, self.budget),
            system_template=config["agent"]["system_template"],
            instance_template=config["agent"]["instance_template"],
            step_limit=self.budget.max_steps,
            cost_limit=0,
            max_consecutive_format_errors=MOST_REFUSED,
        )
        ended = agent.run(self.instance.problem_statement)
        self.trajectory = agent.save(None, {"instance_id": self.instance.id})
        return ended

    def _open_shell(self, opened: ExitStack) -> Shell:
        scratch = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="srl-tree-")))
        bug = self.instance.bug_patch
        shell = open_shell(
            self.sandbox,
            source_tree(self.repository, scratch),
            patches=[bug] if bug else [],
            import_from=self.instance.import_from,
            limits=Limits(seconds=self.budget.command_seconds),
        )
        self._shell = opened.enter_context(shell)
        return self._shell


class _Model:
    """What mini-swe-agent takes for a model."""

    def __init__(self, run: AgentRun, config: Mapping[str, Any]) -> None:
        self.run, self.config = run, config

    def query(self, messages: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        budget = self.run.budget
        if sum(map(_tokens, self.run.replies)) >= budget.max_agent_tokens:
            raise LimitsExceeded(_exit("token limit"))
        prompt = next_prompt(messages, budget)
        if prompt_tokens(prompt) > budget.max_input_tokens:
            raise LimitsExceeded(_exit(PROMPT_TOO_LONG))
        reply = self.run.ask(prompt)
        try:
            actions = parse_regex_actions(
                split_thought(reply.text)[1],  # as the reader of trajectories has it
                action_regex=ACTION,
                format_error_template=self.config["format_error_template"],
                template_kwargs={"finish_reason": "length" if reply.truncated else "stop"},
            )
        except FormatError as error:
            error.messages[0]["extra"]["model_response"] = reply.text
            raise
        return {"role": "assistant", "content": reply.text, "extra": {"actions": actions}}

    def format_message(self, **message: Any) -> dict[str, Any]:
        return message

    def format_observation_messages(
        self, message: dict[str, Any], outputs: list[dict[str, Any]], template_vars: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        template = self.config["observation_template"]
        return format_observation_messages(outputs, observation_template=template, template_vars=template_vars)

    def get_template_vars(self, **_: Any) -> dict[str, Any]:
        return {}

    def serialize(self) -> dict[str, Any]:
        return {"info": {"config": {"model": {**self.config, "action_regex": ACTION}}}}


class _Environment(LocalEnvironment):
    """What mini-swe-agent takes for a machine: the sandbox, with the words in which its own answers."""

    def __init__(self, shell: Callable[[], Shell], sandbox: Sandbox, budget: AgentBudget) -> None:
        self.config = LocalEnvironmentConfig(cwd="/testbed", timeout=max(1, round(budget.command_seconds)))
        self.sandbox, self._open = sandbox, shell
        self._shell: Shell | None = None

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        self._shell = self._shell or self._open()  # not before there is something to run
        try:
            answer = self._shell.run(action["command"])
        except ShellEnded as reason:
            raise LimitsExceeded(_exit(str(reason))) from None
        output = {"output": answer.output, "returncode": answer.code, "exception_info": ""}
        if answer.end != "exit":
            limit = f"{self.config.timeout} seconds" if answer.end == "time" else "what it may print"
            output |= {"returncode": -1, "exception_info": f"The command was ended at the limit of {limit}."}
        self._check_finished(output)
        return output

    def get_template_vars(self, **_: Any) -> dict[str, Any]:
        return {}

    def serialize(self) -> dict[str, Any]:
        environment = {"cwd": self.config.cwd, "timeout": self.config.timeout, "sandbox": self.sandbox.walls}
        return {"info": {"config": {"environment": environment}}}


def next_prompt(messages: Sequence[Mapping[str, Any]], budget: AgentBudget) -> tuple[Message, ...]:
    """What `srl steps` would write before the action after these messages of mini-swe-agent: a step's row, or turns.

    Only where the last answers were refused is there more: the words of the refusals, which stand in no row.
    """
    run = Row("the agent's run", {"messages": [*messages, ANY_ACTION]})
    trajectory = mini_swe_agent.read(run, "run")
    if budget.asked_in == "steps":
        *_, last = step_instances(trajectory, targets="all", context=budget.context, system_prompt=budget.system_prompt)
        prompt = last.prompt
    elif whole := conversation(trajectory, budget.system_prompt):
        prompt = (*whole.prompt, *whole.turns[:-1])
    else:
        raise LimitsExceeded(_exit("a turn that no training has"))
    refused = list(takewhile(_is_refusal, reversed(messages)))[::-1]
    *before, asked = prompt
    lead = SEPARATOR if refused and budget.asked_in == "turns" else ""
    told = "".join(f"Observation:\n{message['content']}{SEPARATOR}" for message in refused)
    return (*before, Message(role=asked["role"], content=f"{asked['content']}{lead}{told}"))


def _is_refusal(message: Mapping[str, Any]) -> bool:
    return bool(message.get("extra", {}).get("interrupt_type") == "FormatError")


def mini_config() -> dict[str, Any]:
    """mini-swe-agent's own configuration for SWE-bench, with actions in text."""
    path = Path(minisweagent.package_dir, "config", "benchmarks", "swebench_backticks.yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = ("observation_template", "format_error_template")
    return {"agent": loaded["agent"], "model": {name: loaded["model"][name] for name in kept}}


def _exit(status: str) -> dict[str, Any]:
    """The message with which mini-swe-agent ends."""
    return {"role": "exit", "content": status, "extra": {"exit_status": status, "submission": ""}}


def _tokens(reply: Reply) -> int:
    return len(reply.text) // CHARACTERS_PER_TOKEN if reply.tokens is None else reply.tokens
